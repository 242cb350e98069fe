//! YAML as text, block by block: what was written by hand is moved, never formatted, so it keeps its comments and line
//! breaks.

/// A key at some indentation, with the lines of it and below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub key: String,
    /// Its lines, with the comments right above it and without empty lines at the end.
    pub text: String,
    /// The number of the key's line, from 1.
    pub line: usize,
}

/// The blocks of `text` whose keys are indented by `indent` spaces. Anything before the first of them is left out.
pub fn blocks(text: &str, indent: usize) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut above: Vec<&str> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let depth = line.len() - line.trim_start().len();
        let is_comment = line.trim_start().starts_with('#');
        if depth == indent && is_comment {
            above.push(line);
        } else if let Some(key) = key_at(line, indent) {
            above.push(line);
            blocks.push(Block { key, text: above.join("\n"), line: number + 1 });
            above.clear();
        } else if !line.trim().is_empty() && depth <= indent {
            above.clear();
        } else if let Some(block) = blocks.last_mut() {
            // A comment in the middle of a block belongs to what is before it.
            for line in above.drain(..).chain([line]) {
                block.text.push('\n');
                block.text.push_str(line);
            }
        }
    }
    for block in &mut blocks {
        block.text.truncate(block.text.trim_end().len());
    }
    blocks
}

/// The key that a line begins, `name:` or `- name: x`, in which case it is the item's name.
fn key_at(line: &str, indent: usize) -> Option<String> {
    let rest = line.strip_prefix(&" ".repeat(indent)).filter(|rest| !rest.starts_with([' ', '#']))?;
    if let Some(item) = rest.strip_prefix("- name: ") {
        return Some(item.trim().to_owned());
    }
    let (key, after) = rest.split_once(':')?;
    (after.is_empty() || after.starts_with(' ')).then(|| key.trim_matches('"').to_owned())
}

/// The lines below a block's key.
pub fn inside(block: &Block) -> String {
    let mut lines = block.text.lines().skip_while(|line| line.trim_start().starts_with('#'));
    lines.next();
    lines.collect::<Vec<_>>().join("\n")
}

/// The number of the first line, from 1, with `word` in the block that begins on line `from`; `from` itself if there is
/// none.
pub fn line_of(text: &str, from: usize, word: &str) -> usize {
    let indent_of = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<&str> = text.lines().collect();
    let Some(first) = lines.get(from.saturating_sub(1)) else { return from };
    let indent = indent_of(first);
    let below =
        lines.iter().enumerate().skip(from).take_while(|(_, line)| line.trim().is_empty() || indent_of(line) > indent);
    let is_in = |line: &str| {
        let ends = |c: char| !(c.is_alphanumeric() || c == '-' || c == '_' || c == '.');
        line.match_indices(word).any(|(at, found)| {
            line[..at].chars().next_back().is_none_or(ends) && line[at + found.len()..].chars().next().is_none_or(ends)
        })
    };
    std::iter::once((from - 1, first)).chain(below).find(|(_, line)| is_in(line)).map_or(from, |(number, _)| number + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# About all.\nfirst:\n  # Of a.\n  a: { x: 1 }\n\n  b:\n    - y\n    # Between.\n    - z\n\nsecond: 2\n";

    #[test]
    fn a_block_keeps_its_comments_and_loses_empty_lines_at_its_end() {
        let outer = blocks(TEXT, 0);
        assert_eq!(outer.iter().map(|block| block.key.as_str()).collect::<Vec<_>>(), ["first", "second"]);
        let inner = blocks(&inside(&outer[0]), 2);
        assert_eq!(inner[0].text, "  # Of a.\n  a: { x: 1 }");
        assert_eq!(inner[1].text, "  b:\n    - y\n    # Between.\n    - z");
    }

    #[test]
    fn a_word_is_found_on_its_line_of_its_block_and_nowhere_else() {
        assert_eq!(line_of(TEXT, 6, "z"), 9);
        assert_eq!(line_of(TEXT, 4, "z"), 4, "it stands in another block");
        assert_eq!(line_of(TEXT, 6, "wee"), 6);
    }
}
