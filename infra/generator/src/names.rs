//! Names: each is typed once, and what CloudFormation needs is derived from it.

use crate::system::Placed;

/// `reserve-seats` as `ReserveSeats`.
pub fn pascal(kebab: &str) -> String {
    let words = kebab.split(['-', '.']).map(|word| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
    });
    words.collect()
}

/// `reservation-requests` as `RESERVATION_REQUESTS`.
pub fn setting(kebab: &str) -> String {
    kebab.replace('-', "_").to_uppercase()
}

/// The name of one of a context's things: `reservation` of `reservations`.
pub fn singular(context: &str) -> &str {
    context.strip_suffix('s').unwrap_or(context)
}

/// A text as a YAML scalar: quoted only where it has to be.
pub fn scalar(text: &str) -> String {
    let plain = !text.contains(": ")
        && !text.contains(" #")
        && !text.starts_with(['"', '\'', '{', '[', '!', '&', '*', '@', '`', '%', '|', '>', '?', '-']);
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

/// The ARN of something of this account and region.
pub fn arn(service: &str, resource: &str) -> String {
    format!("arn:${{AWS::Partition}}:{service}:${{AWS::Region}}:${{AWS::AccountId}}:{resource}")
}

/// How a function's settings name another function, of the same stack or another, in order to call it.
pub fn told(from: &str, to: Placed<'_>) -> String {
    match (from == to.context.name, to.function.canary) {
        (true, true) => format!("!Ref {}.Alias", pascal(to.name)),
        (true, false) => format!("!Ref {}", pascal(to.name)),
        (false, true) => called(from, to),
        (false, false) => format!("!Sub ${{System}}-{}", to.name),
    }
}

/// The ARN under which a function is called: of its alias, where it has one.
pub fn called(from: &str, to: Placed<'_>) -> String {
    match (from == to.context.name, to.function.canary) {
        (true, true) => format!("!Ref {}.Alias", pascal(to.name)),
        (true, false) => format!("!GetAtt {}.Arn", pascal(to.name)),
        (false, _) => format!("!Sub {}", function_arn(to)),
    }
}

/// The same by its name alone, for use in a `!Sub`.
pub fn function_arn(to: Placed<'_>) -> String {
    let alias = if to.function.canary { ":live" } else { "" };
    arn("lambda", &format!("function:${{System}}-{}{alias}", to.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_quoted_where_yaml_would_read_it_otherwise() {
        assert_eq!(scalar("Holds wait; see RUNBOOK.md#late"), "Holds wait; see RUNBOOK.md#late");
        assert_eq!(scalar("Late: very"), "\"Late: very\"");
        assert_eq!(scalar("a #b"), "\"a #b\"");
    }
}
