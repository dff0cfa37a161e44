//! A gauge that counts open things.

use prometheus_client::metrics::gauge::Gauge;

/// Increments a gauge, and decrements it on drop. A panic of the task does not leak a count.
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    pub fn new(gauge: &Gauge) -> GaugeGuard {
        gauge.inc();
        GaugeGuard(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_decrements_the_gauge() {
        let gauge = Gauge::default();
        let [one, other] = [GaugeGuard::new(&gauge), GaugeGuard::new(&gauge)];
        assert_eq!(gauge.get(), 2);
        let task = tokio::spawn(async move {
            let _one = one;
            tokio::task::yield_now().await;
            panic!("as a tunnel might");
        });
        assert!(task.await.is_err_and(|ended| ended.is_panic()));
        assert_eq!(gauge.get(), 1);
        drop(other);
        assert_eq!(gauge.get(), 0);
    }
}
