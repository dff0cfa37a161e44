//! `doorward upstreams`: lists the endpoints of the running gateway.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use http::{Method, StatusCode};

use crate::upstream::EndpointReport;

use super::config_file::SocketArgs;
use super::{sessions, terminal};

#[derive(Args)]
pub struct UpstreamsArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &UpstreamsArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let socket = args.socket.path()?;
    let (status, body) = runtime.block_on(sessions::send(&socket, Method::GET, "/upstreams"))?;
    if status != StatusCode::OK {
        bail!("{}", body.trim_end());
    }
    match args.json {
        true => writeln!(terminal::out(), "{body}")?,
        false => write!(
            terminal::out(),
            "{}",
            table(&serde_json::from_str::<Vec<EndpointReport>>(&body)?)
        )?,
    }
    Ok(ExitCode::SUCCESS)
}

fn table(endpoints: &[EndpointReport]) -> String {
    let width = |column: fn(&EndpointReport) -> &str, head: &str| {
        let widths = endpoints.iter().map(|endpoint| column(endpoint).chars().count());
        widths.max().unwrap_or_default().max(head.len())
    };
    let (route, endpoint) = (width(|it| &it.route, "ROUTE"), width(|it| &it.endpoint, "ENDPOINT"));
    let mut text =
        format!("{:route$}  {:endpoint$}  {:14}  REQUESTS\n", "ROUTE", "ENDPOINT", "STATE");
    for it in endpoints {
        let state = it.cause.as_ref().map_or(it.state.clone(), |cause| format!("down: {cause}"));
        let requests = it.requests.map_or("-".to_owned(), |requests| requests.to_string());
        let line =
            format!("{:route$}  {:endpoint$}  {state:14}  {requests}", it.route, it.endpoint);
        text.push_str(&format!("{line}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_endpoints_is_a_table() {
        let endpoint = |state: &str, cause: Option<&str>, requests| EndpointReport {
            route: "a.test/".to_owned(),
            endpoint: "http://127.0.0.1:3000".to_owned(),
            state: state.to_owned(),
            cause: cause.map(str::to_owned),
            requests,
        };
        let all = [endpoint("up", None, None), endpoint("down", Some("check"), Some(2))];
        let expected = "\
ROUTE    ENDPOINT               STATE           REQUESTS
a.test/  http://127.0.0.1:3000  up              -
a.test/  http://127.0.0.1:3000  down: check     2
";
        assert_eq!(table(&all), expected);
    }
}
