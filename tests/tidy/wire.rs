//! The API description matches what the handlers read, write and refuse.

use crate::code::{Source, path_text};
use crate::none;
use crate::template::Template;
use crate::workspace::{contexts, crate_dir, text};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Expr, Item, ItemStruct, Lit, Meta, Token};

fn api() -> Value {
    serde_norway::from_str(&text("infra/openapi.yaml")).expect("the API description is no YAML")
}

fn resolved<'a>(api: &'a Value, value: &'a Value) -> &'a Value {
    let pointer = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    pointer.map_or(value, |pointer| api.pointer(pointer).unwrap_or_else(|| panic!("{pointer} leads nowhere")))
}

/// The fields of a schema, and which of them must be there.
fn fields(api: &Value, schema: &Value) -> (BTreeSet<String>, BTreeSet<String>) {
    let schema = resolved(api, schema);
    let names = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone());
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    let (mut all, mut must) = (names.collect::<BTreeSet<_>>(), required.collect::<BTreeSet<_>>());
    for part in schema["allOf"].as_array().into_iter().flatten() {
        let (more, needed) = fields(api, part);
        all.extend(more);
        must.extend(needed);
    }
    (all, must)
}

/// A struct of `handlers.rs` that is read or written as JSON.
struct Wire {
    name: String,
    is_read: bool,
    fields: BTreeSet<String>,
    /// Other names of fields.
    aliases: BTreeSet<String>,
    required: BTreeSet<String>,
}

fn wires(source: &Source) -> Vec<Wire> {
    let structs: BTreeMap<String, &ItemStruct> = source
        .file
        .items
        .iter()
        .filter_map(|item| if let Item::Struct(item) = item { Some((item.ident.to_string(), item)) } else { None })
        .collect();
    let derives = |item: &ItemStruct, name: &str| {
        item.attrs.iter().filter(|attribute| attribute.path().is_ident("derive")).any(|attribute| {
            let list = attribute.parse_args_with(Punctuated::<syn::Path, Token![,]>::parse_terminated);
            list.is_ok_and(|list| list.iter().any(|path| path.is_ident(name)))
        })
    };
    let mut found = Vec::new();
    for (name, item) in &structs {
        let is_read = derives(item, "Deserialize");
        if is_read || derives(item, "Serialize") {
            let mut wire = Wire {
                name: name.clone(),
                is_read,
                fields: BTreeSet::new(),
                aliases: BTreeSet::new(),
                required: BTreeSet::new(),
            };
            collect(item, &structs, &mut wire);
            found.push(wire);
        }
    }
    found
}

fn collect(item: &ItemStruct, structs: &BTreeMap<String, &ItemStruct>, wire: &mut Wire) {
    for field in &item.fields {
        let mut name = field.ident.as_ref().map(ToString::to_string).unwrap_or_default();
        let (mut required, mut flattened) = (true, false);
        for attribute in field.attrs.iter().filter(|attribute| attribute.path().is_ident("serde")) {
            let metas = attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).expect("serde");
            for meta in metas {
                let given = match &meta {
                    Meta::NameValue(pair) => match &pair.value {
                        Expr::Lit(literal) => match &literal.lit {
                            Lit::Str(text) => text.value(),
                            _ => String::new(),
                        },
                        _ => String::new(),
                    },
                    _ => String::new(),
                };
                match path_text(meta.path()).as_str() {
                    "rename" => name = given,
                    "alias" => drop(wire.aliases.insert(given)),
                    "default" | "skip_serializing_if" => required = false,
                    "flatten" => flattened = true,
                    _ => {}
                }
            }
        }
        if flattened {
            let syn::Type::Path(kind) = &field.ty else { continue };
            if let Some(inner) = structs.get(&path_text(&kind.path)) {
                collect(inner, structs, wire);
            }
            continue;
        }
        if required {
            wire.required.insert(name.clone());
        }
        wire.fields.insert(name);
    }
}

fn undescribed(api: &Value, wire: &Wire) -> bool {
    let schemas = api["components"]["schemas"].as_object().expect("schemas");
    let all: BTreeSet<String> = wire.fields.union(&wire.aliases).cloned().collect();
    !schemas.values().any(|schema| {
        let (described, required) = fields(api, schema);
        // A field with an alias is required under one of its names.
        let requires = required == wire.required || !wire.aliases.is_empty() && required.is_subset(&wire.required);
        described == all && requires && (!wire.is_read || schema["additionalProperties"] == false)
    })
}

#[test]
fn every_body_a_handler_reads_or_writes_is_described_field_by_field() {
    let api = api();
    let mut violations = Vec::new();
    for context in contexts() {
        for wire in wires(&Source::read(&crate_dir(&context).join("src/handlers.rs"))) {
            if undescribed(&api, &wire) {
                let Wire { name, fields, required, .. } = wire;
                violations
                    .push(format!("{context}: no schema has the fields of {name}: {fields:?}, required {required:?}"));
            }
        }
    }
    none(violations);
}

#[test]
fn a_body_with_another_field_or_another_requirement_is_found() {
    let api = api();
    let is_undescribed = |text: &str| undescribed(&api, &wires(&Source::parse("handlers.rs", text))[0]);
    let body = |fields: &str| is_undescribed(&format!("#[derive(Deserialize)] struct B {{ {fields} }}"));
    assert!(!body("amount: i64, #[serde(default)] payment_key: Option<String>"));
    assert!(body("amount: i64, payment_key: String"), "it need not be there");
    assert!(body("#[serde(default)] amount: i64, #[serde(default)] payment_key: Option<String>"), "it must be there");
    assert!(body("#[serde(default)] payment_key: Option<String>"), "more is described");
    assert!(body("balance: i64"), "an answer is not strict");
    assert!(!is_undescribed("#[derive(Serialize)] struct B { balance: i64 }"));
}

/// The codes that an operation's problems can have, by status.
fn described_codes(api: &Value, operation: &Value) -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    for response in operation["responses"].as_object().into_iter().flatten().map(|(_, response)| response) {
        for media in resolved(api, response)["content"].as_object().into_iter().flatten().map(|(_, media)| media) {
            find_codes(&media["schema"], &mut codes);
        }
    }
    codes
}

fn find_codes(schema: &Value, codes: &mut BTreeSet<String>) {
    let code = &schema["properties"]["code"];
    let listed = code["enum"].as_array().into_iter().flatten();
    codes.extend(listed.chain([&code["const"]]).filter_map(Value::as_str).map(str::to_owned));
    for parts in ["allOf", "oneOf"] {
        schema[parts].as_array().into_iter().flatten().for_each(|part| find_codes(part, codes));
    }
}

/// The names that a domain defines: the texts that a method of one of its types returns.
fn names_of(source: &Source, owner: &str, method: &str) -> BTreeSet<String> {
    #[derive(Default)]
    struct Texts(BTreeSet<String>);
    impl<'ast> Visit<'ast> for Texts {
        fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
            self.0.insert(text.value());
        }
    }
    let mut texts = Texts::default();
    for item in &source.file.items {
        if let Item::Impl(block) = item
            && matches!(block.self_ty.as_ref(), syn::Type::Path(path) if path.path.is_ident(owner))
        {
            for item in &block.items {
                if let syn::ImplItem::Fn(found) = item
                    && found.sig.ident == method
                {
                    texts.visit_block(&found.block);
                }
            }
        }
    }
    texts.0
}

#[test]
fn every_state_and_reason_that_is_described_is_one_and_every_one_is_described() {
    let api = api();
    let domain = |context: &str| Source::read(&crate_dir(context).join("src/domain.rs"));
    let mut rejections = names_of(&domain("reservations"), "Refusal", "code");
    rejections.insert(reservations::domain::TIMED_OUT.to_owned());
    let contracts = Source::read(&crate_dir("contracts").join("src/saga.rs"));
    for (field, names) in [
        ("Reservation/properties/status", names_of(&domain("reservations"), "Status", "as_str")),
        ("Reservation/properties/failure", rejections),
        ("Payment/properties/status", names_of(&domain("payments"), "Status", "as_str")),
        ("Payment/properties/failure", names_of(&contracts, "PaymentFailure", "as_str")),
        ("Place/properties/status", names_of(&domain("waiting-room"), "Status", "as_str")),
        ("PointEntry/properties/kind", names_of(&domain("points"), "Kind", "as_str")),
    ] {
        let described = api.pointer(&format!("/components/schemas/{field}/enum")).and_then(Value::as_array);
        let described = described.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        assert_eq!(described.collect::<BTreeSet<_>>(), names, "{field}");
        assert!(names.len() > 2, "{field}");
    }
}

/// The codes of the problems a file makes.
fn made_codes(source: &Source) -> BTreeSet<String> {
    struct Codes(BTreeSet<String>);
    impl<'ast> Visit<'ast> for Codes {
        fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
            if let Expr::Path(function) = call.func.as_ref() {
                let place = match path_text(&function.path).as_str() {
                    "Problem::new" | "Self::new" if call.args.len() == 3 => Some(1),
                    "Problem::conflict" => Some(0),
                    _ => None,
                };
                if let Some(Expr::Lit(literal)) = place.and_then(|place| call.args.iter().nth(place))
                    && let Lit::Str(code) = &literal.lit
                {
                    self.0.insert(code.value());
                }
            }
            visit::visit_expr_call(self, call);
        }
        fn visit_expr_struct(&mut self, made: &'ast syn::ExprStruct) {
            if path_text(&made.path) == "Problem" {
                let code =
                    made.fields.iter().find(|field| matches!(&field.member, syn::Member::Named(n) if n == "code"));
                if let Some(Expr::Lit(literal)) = code.map(|field| &field.expr)
                    && let Lit::Str(code) = &literal.lit
                {
                    self.0.insert(code.value());
                }
            }
            visit::visit_expr_struct(self, made);
        }
    }
    let mut codes = Codes(BTreeSet::new());
    codes.visit_file(&source.production().file);
    codes.0
}

#[test]
fn every_problem_code_is_described_where_it_is_made_and_made_where_it_is_described() {
    let api = api();
    let template = Template::read();
    let kit: BTreeSet<String> = ["http", "auth", "idempotency"]
        .iter()
        .flat_map(|file| made_codes(&Source::read(&crate_dir("kit").join(format!("src/{file}.rs")))))
        .collect();
    assert!(kit.contains("invalid_request") && kit.contains("invalid_queue_token"), "{kit:?}");
    let mut violations = Vec::new();
    let mut described_anywhere = BTreeSet::new();
    for context in contexts() {
        let src = crate_dir(&context).join("src");
        let mut own = made_codes(&Source::read(&src.join("handlers.rs")));
        own.extend(names_of(&Source::read(&src.join("domain.rs")), "Refusal", "code"));
        let ids: BTreeSet<&str> = template
            .functions()
            .iter()
            .filter(|function| function.context() == context)
            .filter(|function| function.triggers().iter().any(|trigger| trigger.kind == "Api"))
            .map(|function| function.handler())
            .collect();
        let mut described = BTreeSet::new();
        for item in api["paths"].as_object().expect("paths").values() {
            for operation in item.as_object().expect("a path item").values() {
                if operation["operationId"].as_str().is_some_and(|id| ids.contains(id)) {
                    described.extend(described_codes(&api, operation));
                }
            }
        }
        violations.extend(own.difference(&described).map(|code| format!("{context} makes {code}, described nowhere")));
        let made = |code: &&String| own.contains(*code) || kit.contains(*code) || *code == "gateway_refused";
        let never = described.iter().filter(|code| !made(code));
        violations.extend(never.map(|code| format!("{code} is described for {context}, which never makes it")));
        described_anywhere.extend(described);
    }
    violations.extend(kit.difference(&described_anywhere).map(|code| format!("kit makes {code}, described nowhere")));
    none(violations);
}

/// Violations in the examples of a part of the description: each `schema` with the `example` or `examples` beside it.
fn wrong_examples(api: &Value, piece: &Value, place: &str, checked: &mut usize) -> Vec<String> {
    let mut violations = Vec::new();
    let many = piece["examples"].as_object().into_iter().flatten().map(|(_, example)| &example["value"]);
    let examples: Vec<&Value> = many.chain(piece.get("example")).collect();
    if !piece["schema"].is_null() && !examples.is_empty() {
        // References of a schema lead from the root of the document it is in.
        let schema = json!({"allOf": [piece["schema"]], "components": api["components"]});
        match jsonschema::draft202012::options().should_validate_formats(true).build(&schema) {
            Err(error) => violations.push(format!("{place}: {error}")),
            Ok(validator) => violations.extend(examples.into_iter().flat_map(|example| {
                *checked += 1;
                validator.iter_errors(example).map(|error| format!("{place}: {error}")).collect::<Vec<_>>()
            })),
        }
    }
    let members = piece.as_object().into_iter().flatten();
    let members = members.map(|(name, member)| (name.clone(), member));
    let items = piece.as_array().into_iter().flatten().enumerate().map(|(at, item)| (at.to_string(), item));
    for (name, inner) in members.chain(items) {
        violations.extend(wrong_examples(api, inner, &format!("{place}/{name}"), checked));
    }
    violations
}

#[test]
fn every_example_is_what_its_schema_says() {
    let api = api();
    let mut checked = 0;
    none(wrong_examples(&api, &api, "", &mut checked));
    assert!(checked > 60, "only {checked} examples");
    let schema = json!({"$ref": "#/components/schemas/Payment"});
    let examples = json!({"a": {"value": {"payment_id": "p"}}, "b": {"value": {"status": "unknown"}}});
    assert!(wrong_examples(&api, &json!({"schema": schema, "examples": examples}), "", &mut checked).len() >= 2);
}
