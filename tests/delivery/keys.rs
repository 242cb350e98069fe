//! The secrets that the deployment asks for or generates, and the functions that read them.

use crate::stages::python;
use crate::workspace;
use contracts::Timestamp;
use kit::auth::QueueTokens;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};
use tests::calls::Ask;
use tests::fixture;

/// Which of the functions' types reads a secret.
const READERS: [(&str, &str); 7] = [
    ("alimtalk", "AlimTalkAccess"),
    ("cash-receipt", "CashReceiptAccess"),
    ("data-platform", "Signing"),
    ("notion", "NotionAccess"),
    ("partner", "Signing"),
    ("payment-provider", "ProviderSecret"),
    ("user-directory", "DirectoryAccess"),
];

/// The structs of some sources with their fields' types, and what is read as a `Secret<...>`.
#[derive(Default)]
struct Sources {
    structs: BTreeMap<String, BTreeMap<String, String>>,
    read: BTreeSet<String>,
}

/// The last part of a type's path, and of its first parameter's.
fn names(kind: &syn::Type) -> Option<(String, Option<String>)> {
    let syn::Type::Path(path) = kind else { return None };
    let last = path.path.segments.last()?;
    let inner = match &last.arguments {
        syn::PathArguments::AngleBracketed(inner) => inner.args.first().and_then(|argument| match argument {
            syn::GenericArgument::Type(kind) => names(kind).map(|(name, _)| name),
            _ => None,
        }),
        _ => None,
    };
    Some((last.ident.to_string(), inner))
}

impl<'ast> Visit<'ast> for Sources {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        let mut fields = BTreeMap::new();
        for field in &item.fields {
            if let (Some(name), Some((kind, inner))) = (&field.ident, names(&field.ty)) {
                if let ("Secret", Some(inner)) = (kind.as_str(), inner) {
                    self.read.insert(inner);
                }
                fields.insert(name.to_string(), kind);
            }
        }
        self.structs.insert(item.ident.to_string(), fields);
        visit::visit_item_struct(self, item);
    }
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn a_secret_is_asked_for_with_the_fields_that_its_function_reads() {
    let mut sources = Sources::default();
    for context in crate::contexts() {
        let mut files = Vec::new();
        rust_files(&workspace(&format!("functions/{context}/src")), &mut files);
        for file in files {
            sources.visit_file(&syn::parse_file(&fs::read_to_string(file).unwrap()).unwrap());
        }
    }
    let readers: BTreeSet<String> = READERS.iter().map(|(_, reader)| (*reader).to_owned()).collect();
    assert_eq!(readers, sources.read);
    let read: BTreeMap<&str, BTreeMap<&String, &str>> = READERS
        .iter()
        .map(|(name, reader)| {
            let kind = |kind: &str| if kind == "String" { "text" } else { "table" };
            (*name, sources.structs[*reader].iter().map(|(field, it)| (field, kind(it))).collect())
        })
        .collect();
    assert_eq!(json!(read), python("print(json.dumps(keys.DOCUMENTS))"));
}

#[test]
fn the_keys_of_queue_tokens_are_such_as_the_functions_take_and_change_without_voiding_a_token() {
    let made = python(
        "of = [keys.new_queue_token_keys()]
for step in keys.ROTATION.values(): of.append(step(of[-1]))
print(json.dumps([*of, keys.new_queue_token_keys()]))",
    );
    let sets: Vec<QueueTokens> =
        made.as_array().unwrap().iter().map(|set| QueueTokens::new(set.as_str().unwrap()).unwrap()).collect();
    let now = Timestamp::from_millis(1_800_000_000_000);
    let place = fixture::place("alice", 1, now);
    let takes = |keys: &QueueTokens, signed_by: &QueueTokens| {
        let token = signed_by.sign(&place).unwrap();
        keys.of(&Ask::at(now).header("queue-token", &token).call(), &fixture::user("alice")).is_ok()
    };
    let [first, added, used, last, other] = &sets[..] else { panic!("{made}") };
    // During a deployment old and new functions run side by side.
    for (before, after) in [(first, added), (added, used), (used, last)] {
        assert!(takes(before, after) && takes(after, before));
    }
    assert!(takes(used, first));
    assert!(!takes(last, first) && !takes(first, other));
}
