//! `cargo local seat-map rebuild`: has the seat maps of dates rebuilt from the seats as they are sold, through the API, as
//! an operator does on an account.

use crate::console::print;
use crate::driver::arguments::Common;
use crate::http::Client;
use crate::tokens::{TokenRequest, Tokens};
use crate::{Error, Result, StackInfo};
use ::http::Method;
use serde_json::Value;
use std::process::ExitCode;

/// How often a date is asked for again while some of it is left.
const ROUNDS: u32 = 5;

/// Options of a rebuild.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The dates
    #[arg(value_name = "SCHEDULE", required = true)]
    pub schedules: Vec<String>,
    /// Who does it: the operator that the log names
    #[arg(long = "as", value_name = "USER", default_value = "local-operator")]
    pub operator: String,
    /// The options of every verb.
    #[command(flatten)]
    pub common: Common,
}

/// Rebuilds the seat maps of dates; fails when something of one is left.
pub async fn rebuild(args: Args) -> Result<ExitCode> {
    let dir = args.common.dir()?;
    let info = StackInfo::of_running(&dir)?;
    let request = TokenRequest { user: &args.operator, operator: true, ttl_seconds: 600 };
    let bearer = format!("Bearer {}", Tokens::open(&dir)?.issue(request)?);
    let mut code = ExitCode::SUCCESS;
    for schedule in &args.schedules {
        let url = format!("{}/admin/schedules/{schedule}/seat-map", info.api_url);
        let mut rounds = 1;
        let mut answer = ask(&url, &bearer).await?;
        while rounds < ROUNDS && is_left(&answer) {
            answer = ask(&url, &bearer).await?;
            rounds += 1;
        }
        print(&format!("{answer}\n"))?;
        if is_left(&answer) {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

async fn ask(url: &str, bearer: &str) -> Result<Value> {
    let answer = Client::new().send(Method::POST, url, &[("authorization", bearer)], Vec::new()).await?;
    if answer.status.is_success() {
        return Ok(answer.json());
    }
    Err(Error::Engine(format!("{url}: {} {}", answer.status, answer.text())))
}

fn is_left(answer: &Value) -> bool {
    answer["left"].as_array().is_none_or(|left| !left.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_date_is_rebuilt_when_nothing_of_it_is_left() {
        assert!(!is_left(&json!({"sections": 2, "corrected": ["A"], "left": []})));
        assert!(is_left(&json!({"left": ["A"]})) && is_left(&json!({})));
    }
}
