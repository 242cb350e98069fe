//! The shapes of resources, as SAM's YAML with placeholders ("holes"): see `shapes/`.

use minijinja::{Environment, UndefinedBehavior, value::Value};
use serde::Serialize;
use std::sync::LazyLock;

static SHAPES: LazyLock<Environment<'static>> = LazyLock::new(read);

#[expect(clippy::expect_used, reason = "shapes are compiled in, and every test reads them")]
fn read() -> Environment<'static> {
    let mut shapes = Environment::new();
    shapes.set_trim_blocks(true);
    shapes.set_lstrip_blocks(true);
    shapes.set_keep_trailing_newline(true);
    shapes.set_undefined_behavior(UndefinedBehavior::Strict);
    shapes.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    for (name, text) in [
        ("alarm", include_str!("../shapes/alarm.yaml")),
        ("alarms_rule", include_str!("../shapes/alarms_rule.yaml")),
        ("dead_letters", include_str!("../shapes/dead_letters.yaml")),
        ("edge", include_str!("../shapes/edge.yaml")),
        ("function", include_str!("../shapes/function.yaml")),
        ("header", include_str!("../shapes/header.yaml")),
        ("log", include_str!("../shapes/log.yaml")),
        ("log_reader", include_str!("../shapes/log_reader.yaml")),
        ("platform", include_str!("../shapes/platform.yaml")),
        ("queue", include_str!("../shapes/queue.yaml")),
        ("queue_policy", include_str!("../shapes/queue_policy.yaml")),
        ("rule", include_str!("../shapes/rule.yaml")),
        ("saga", include_str!("../shapes/saga.yaml")),
        ("stream", include_str!("../shapes/stream.yaml")),
        ("table", include_str!("../shapes/table.yaml")),
    ] {
        shapes.add_template(name, text).expect("a shape can be read");
    }
    shapes
}

/// A shape with its placeholders filled. One that is not filled is a bug of this crate, which its tests find.
#[expect(clippy::expect_used, reason = "shapes are compiled in, and each is filled by a test")]
pub fn fill(shape: &str, holes: impl Serialize) -> String {
    let template = SHAPES.get_template(shape).expect("there is a shape of that name");
    template.render(Value::from_serialize(holes)).unwrap_or_else(|error| panic!("{shape}: {error:#}"))
}
