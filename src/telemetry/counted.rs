//! What is open now, as a gauge shows it.

use prometheus_client::metrics::gauge::Gauge;

/// One of those that a gauge counts, until it is dropped. However its task ends, a panic included, it is
/// counted no more.
pub struct Counted(Gauge);

impl Counted {
    pub fn one_of(gauge: &Gauge) -> Counted {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_panics_is_counted_no_more() {
        let gauge = Gauge::default();
        let [one, other] = [Counted::one_of(&gauge), Counted::one_of(&gauge)];
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
