//! The API's description, bundled from the contexts' parts. Text is moved, never formatted.

use crate::blocks::{Block, blocks, inside};
use crate::system::System;

const FIRST: &str = "# Bundled by `cargo stacks` from functions/contracts/openapi.yaml and each context's openapi.yaml. Change those, not this.";
const SECTIONS: [&str; 5] = ["securitySchemes", "parameters", "headers", "responses", "schemas"];

/// The bundled description.
pub fn bundle(system: &System) -> String {
    let parts = system.contexts.iter().filter_map(|context| context.openapi.as_deref());
    let parts: Vec<Vec<Block>> = parts.map(|text| blocks(text, 0)).collect();
    let base = blocks(&system.openapi, 0);
    let mut text = vec![FIRST.to_owned()];
    let head = base.iter().filter(|block| !["tags", "components"].contains(&block.key.as_str()));
    text.extend(
        head.map(|block| block.text.lines().skip_while(|line| line.starts_with('#')).collect::<Vec<_>>().join("\n")),
    );
    text.push("tags:".to_owned());
    let tags = parts.iter().chain([&base]).flat_map(|part| entries(part, "tags", 2));
    text.extend(tags.map(|block| block.text));
    text.push("\npaths:".to_owned());
    let paths: Vec<String> = parts.iter().flat_map(|part| entries(part, "paths", 2)).map(|block| block.text).collect();
    text.push(paths.join("\n\n"));
    text.push("\ncomponents:".to_owned());
    let mut sections = Vec::new();
    for name in SECTIONS {
        let of_part = |part: &Vec<Block>| -> String {
            let components = entries(part, "components", 2);
            let section = components.iter().find(|section| section.key == name);
            let entries = section.map(|section| blocks(&inside(section), 4)).unwrap_or_default();
            entries.into_iter().map(|block| block.text).collect::<Vec<_>>().join("\n")
        };
        let groups: Vec<String> =
            [&base].into_iter().chain(&parts).map(of_part).filter(|text| !text.is_empty()).collect();
        if !groups.is_empty() {
            sections.push(format!("  {name}:\n{}", groups.join("\n\n")));
        }
    }
    text.push(sections.join("\n\n"));
    text.join("\n") + "\n"
}

fn entries(part: &[Block], key: &str, indent: usize) -> Vec<Block> {
    part.iter().find(|block| block.key == key).map(|block| blocks(&inside(block), indent)).unwrap_or_default()
}
