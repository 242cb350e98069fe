//! The command line: `cargo local <verb>`.

use crate::console::print;
use crate::driver::arguments::Common;
use crate::driver::stack::{self, Outcome};
use crate::engine::database;
use crate::engine::info::StackInfo;
use crate::error::Error;
use crate::tokens::{TokenRequest, Tokens};
use crate::tools::dead_letters::{DeadLetter, DeadLetterQueue, DeadLetters};
use crate::tools::logs::{LogLine, Logs};
use crate::tools::{seat_map, trace};
use crate::{Result, audit, demo, sink};
use aws_smithy_http_client::tls;
use clap::{Args, Parser, Subcommand};
use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use time::macros::format_description;

/// The local cloud of Encore.
#[derive(Debug, Parser)]
#[command(name = "cargo local", bin_name = "cargo local")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build, start the engine and deploy; again: deploy what changed.
    Up(UpArgs),
    /// Stop the engine and its functions.
    Down(Common),
    /// Print bearer tokens of the local issuer, one a line.
    Token(TokenArgs),
    /// Show the functions' logs.
    Logs(LogArgs),
    /// Play an on-sale and audit it.
    Demo(demo::Args),
    /// Check the invariants of the tables of a running stack.
    Audit(audit::Args),
    /// Show dead letters, and redrive them.
    Dlq(DlqArgs),
    /// Show all events of something, in time order.
    #[command(subcommand)]
    Trace(TraceVerb),
    /// Mend seat maps.
    #[command(subcommand)]
    SeatMap(SeatMapVerb),
    /// Run the sink of a stack. `up` starts it.
    #[command(hide = true)]
    Sink(Common),
    /// Run the database of an engine that has none. Prints its port; ends when standard input does.
    #[command(hide = true)]
    Dynamodb,
}

#[derive(Debug, Args)]
struct UpArgs {
    /// Which stacks: contexts, platform, edge; their dependencies that are not deployed yet come along [default: all]
    #[arg(value_name = "STACK")]
    stacks: Vec<String>,
    #[command(flatten)]
    common: Common,
    /// Deploy what is built already
    #[arg(long)]
    no_build: bool,
    /// The directory of the stacks' SAM templates, or the one template of a system of one stack [default: infra/stacks]
    #[arg(long, value_name = "PATH")]
    template: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct TokenArgs {
    #[command(flatten)]
    common: Common,
    /// The user; repeat it for more
    #[arg(long = "user", value_name = "ID", required = true)]
    users: Vec<String>,
    /// With the scope `operator`
    #[arg(long)]
    operator: bool,
    /// Lifetime in seconds; negative: already expired
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600, allow_negative_numbers = true)]
    ttl: i64,
}

#[derive(Debug, Args)]
struct LogArgs {
    #[command(flatten)]
    common: Common,
    /// One handler only, for example `reserve-seats`
    handler: Option<String>,
    /// How far back: 30s, 10m, 2h, 1d
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    since: Duration,
    /// Follow: print new lines as they come
    #[arg(long)]
    follow: bool,
}

#[derive(Debug, Args)]
struct DlqArgs {
    #[command(flatten)]
    common: Common,
    /// A real account, by this profile, instead of the local stack
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// The region of that account [default: the profile's]
    #[arg(long, value_name = "REGION", requires = "profile")]
    region: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    verb: DlqVerb,
}

#[derive(Debug, Subcommand)]
enum DlqVerb {
    /// Every queue of dead letters or parked work, with how many it holds
    List,
    /// The messages of a queue, with why they are there; they stay
    Show {
        /// The queue, as `list` names it
        queue: String,
    },
    /// Send messages of a queue back to where they came from; idempotent
    Redrive {
        /// The queue, as `list` names it
        queue: String,
        /// Only this message
        #[arg(long, value_name = "ID", conflicts_with = "all")]
        message: Option<String>,
        /// All of them
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Subcommand)]
enum TraceVerb {
    /// An order: its events, from the outboxes of all contexts, and their consumers, from the logs
    Order(trace::Args),
}

#[derive(Debug, Subcommand)]
enum SeatMapVerb {
    /// Rebuild the seat maps of dates from the seats as they are sold; safe while they are sold, and to be repeated
    Rebuild(seat_map::Args),
}

/// Runs the program.
pub async fn run() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Up(args) => up(args).await,
        Verb::Down(common) => down(&common).await,
        Verb::Token(args) => token(&args),
        Verb::Logs(args) => logs(args).await,
        Verb::Demo(args) => demo::run(args).await,
        Verb::Audit(args) => audit::run(args).await,
        Verb::Dlq(args) => dlq(args).await,
        Verb::Trace(TraceVerb::Order(args)) => trace::order(args).await,
        Verb::SeatMap(SeatMapVerb::Rebuild(args)) => seat_map::rebuild(args).await,
        Verb::Sink(common) => be_sink(&common).await,
        Verb::Dynamodb => database::serve().await.map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        // The reader closed the pipe, as `head` does: it has what it wanted.
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("local: {}", error.chain());
            ExitCode::FAILURE
        }
    }
}

async fn up(args: UpArgs) -> Result<ExitCode> {
    let mut options = args.common.options()?;
    options.build = !args.no_build;
    options.stacks = args.stacks;
    if let Some(template) = args.template {
        options.template = template;
    }
    let (info, outcome) = stack::up(&options).await?;
    let outcome_text = match outcome {
        Outcome::Created => "created",
        Outcome::Updated => "updated",
        Outcome::Unchanged => "as it was",
    };
    (options.progress)(&format!("{} is up ({outcome_text})", info.stack));
    print(&format!(
        "api_url      {}\nendpoint_url {}\nsink_url     {}\nstack        {}\nstack_json   {}\n",
        info.api_url,
        info.endpoint_url,
        info.sink_url,
        info.stack,
        StackInfo::path(&options.dir).display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

async fn down(common: &Common) -> Result<ExitCode> {
    let (dir, progress) = (common.dir()?, stack::stderr_progress());
    progress(if stack::down(&dir, &progress).await? { "stopped" } else { "nothing was running" });
    Ok(ExitCode::SUCCESS)
}

async fn dlq(args: DlqArgs) -> Result<ExitCode> {
    let dead_letters = match &args.profile {
        None => {
            let info = StackInfo::of_running(&args.common.dir()?)?;
            DeadLetters::new(&info.sdk_config(), &info.stack)
        }
        Some(profile) => {
            let config = account(profile, args.region.clone()).await;
            DeadLetters::new(&config, &args.common.stack)
        }
    };
    let json = |value: serde_json::Value| format!("{value:#}\n");
    print(&match &args.verb {
        DlqVerb::List => {
            let queues = dead_letters.list().await?;
            if args.json { json(serde_json::json!(queues)) } else { queues.iter().map(format_queue).collect() }
        }
        DlqVerb::Show { queue } => {
            let letters = dead_letters.show(queue).await?;
            match letters.is_empty() {
                false if !args.json => letters.iter().map(format_letter).collect(),
                true if !args.json => "empty\n".to_owned(),
                _ => json(serde_json::json!(letters)),
            }
        }
        DlqVerb::Redrive { queue, message, all } => {
            if message.is_none() && !all {
                return Err(Error::Usage("which? say --message ID, or --all".to_owned()));
            }
            let done = dead_letters.redrive(queue, message.as_deref()).await?;
            let text = format!("sent again: {}, left: {}\n", done.sent, done.left);
            if args.json { json(serde_json::json!(done)) } else { text }
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A real account, as a profile of the AWS configuration files names it.
async fn account(profile: &str, region: Option<String>) -> aws_types::SdkConfig {
    let tls = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc);
    aws_config::defaults(aws_config::BehaviorVersion::latest())
        .profile_name(profile)
        .region(
            aws_config::meta::region::RegionProviderChain::first_try(region.map(aws_config::Region::new))
                .or_else(aws_config::profile::ProfileFileRegionProvider::builder().profile_name(profile).build()),
        )
        .http_client(aws_smithy_http_client::Builder::new().tls_provider(tls).build_https())
        .load()
        .await
}

fn format_queue(queue: &DeadLetterQueue) -> String {
    let source = queue.source.as_deref().unwrap_or("-");
    format!("{:>6}  {:<44} from {source}\n", queue.messages, queue.name)
}

fn format_letter(letter: &DeadLetter) -> String {
    let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let since = OffsetDateTime::from_unix_timestamp_nanos(i128::from(letter.dead_since_ms) * 1_000_000)
        .ok()
        .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_else(|| letter.dead_since_ms.to_string());
    let body: String = letter.body.chars().take(400).collect();
    format!(
        "{}\n  reason      {}\n  error       {}\n  consumer    {}, received {}\n  event       {}\n  correlation {}\n  \
         since       {since}\n  body        {body}\n",
        letter.id,
        letter.reason,
        letter.error,
        or(&letter.consumer),
        letter.receives.map_or_else(|| "-".to_owned(), |count| count.to_string()),
        or(&letter.event_id),
        or(&letter.correlation_id),
    )
}

async fn be_sink(common: &Common) -> Result<ExitCode> {
    sink::Detached::be(&common.dir()?).await.map(|()| ExitCode::SUCCESS)
}

fn token(args: &TokenArgs) -> Result<ExitCode> {
    let tokens = Tokens::open(&args.common.dir()?)?;
    let mut lines = String::new();
    for user in &args.users {
        lines.push_str(&tokens.issue(TokenRequest { user, operator: args.operator, ttl_seconds: args.ttl })?);
        lines.push('\n');
    }
    print(&lines)?;
    Ok(ExitCode::SUCCESS)
}

async fn logs(args: LogArgs) -> Result<ExitCode> {
    let info = StackInfo::of_running(&args.common.dir()?)?;
    let logs = Logs::new(&info, args.handler.as_deref())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut from = i64::try_from(now.saturating_sub(args.since).as_millis()).unwrap_or(0);
    let mut shown = HashSet::new();
    loop {
        let lines = logs.since(from).await?;
        let mut text = String::new();
        for line in &lines {
            if shown.insert((line.at_ms, line.handler.clone(), line.id.clone(), line.message.clone())) {
                text.push_str(&format_line(line));
            }
        }
        print(&text)?;
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        // Lines may come a little out of order; what lies further back has been shown.
        if let Some(last) = lines.last() {
            from = from.max(last.at_ms - 5_000);
            shown.retain(|line| line.0 >= from);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn format_line(line: &LogLine) -> String {
    let format = format_description!("[hour]:[minute]:[second].[subsecond digits:3]");
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(line.at_ms) * 1_000_000)
        .ok()
        .and_then(|at| at.format(format).ok())
        .unwrap_or_else(|| line.at_ms.to_string());
    format!("{at} {:<22} {}\n", line.handler, line.message)
}

fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "s" | "" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err("expected a time such as 30s, 10m, 2h or 1d".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "expected a time such as 30s, 10m, 2h or 1d".to_owned())?;
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn parameters_repeat_and_may_hold_an_equals_sign() {
        let cli = Cli::try_parse_from(["local", "up", "--parameter", "A=b=c", "--parameter", "Empty="]).unwrap();
        let Verb::Up(args) = cli.verb else { panic!("not up") };
        let expected = [("A".to_owned(), "b=c".to_owned()), ("Empty".to_owned(), String::new())];
        assert_eq!(args.common.parameter, expected);
        assert!(Cli::try_parse_from(["local", "up", "--parameter", "=x"]).is_err());
    }

    #[test]
    fn stacks_are_named_and_the_system_has_a_name_of_its_own() {
        let cli = Cli::try_parse_from(["local", "up", "items", "edge", "--stack", "mine"]).unwrap();
        let Verb::Up(args) = cli.verb else { panic!("not up") };
        assert_eq!((args.stacks.join(" "), args.common.stack), ("items edge".to_owned(), "mine".to_owned()));
    }

    #[test]
    fn a_ttl_may_be_negative() {
        let cli = Cli::try_parse_from(["local", "token", "--user", "a", "--user", "b", "--ttl", "-60"]).unwrap();
        let Verb::Token(args) = cli.verb else { panic!("not token") };
        assert_eq!((args.users.len(), args.ttl), (2, -60));
        assert!(Cli::try_parse_from(["local", "token"]).is_err());
    }

    #[test]
    fn an_order_is_traced_in_the_stack_of_a_directory() {
        let cli = Cli::try_parse_from(["local", "trace", "order", "o1", "--target-dir", "d"]).unwrap();
        let Verb::Trace(TraceVerb::Order(args)) = cli.verb else { panic!("not trace") };
        assert_eq!((args.order_id.as_str(), args.common.target_dir), ("o1", Some(PathBuf::from("d"))));
        assert!(Cli::try_parse_from(["local", "trace", "order"]).is_err());
    }

    #[test]
    fn seat_maps_are_rebuilt_by_the_names_of_their_dates() {
        let cli = Cli::try_parse_from(["local", "seat-map", "rebuild", "s1", "s2", "--as", "kim"]).unwrap();
        let Verb::SeatMap(SeatMapVerb::Rebuild(args)) = cli.verb else { panic!("not seat-map") };
        assert_eq!((args.schedules.join(" "), args.operator), ("s1 s2".to_owned(), "kim".to_owned()));
        assert!(Cli::try_parse_from(["local", "seat-map", "rebuild"]).is_err());
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert!(duration("m").is_err() && duration("5y").is_err());
    }

    #[test]
    fn a_log_line_shows_time_and_handler() {
        let line = LogLine { at_ms: 61_005, handler: "get-points".into(), message: "hello".into(), id: String::new() };
        assert_eq!(format_line(&line), "00:01:01.005 get-points             hello\n");
    }
}
