//! The contexts' programs, read from their sources: the handlers of a `main` and how it wires them, and the AWS calls
//! that a function makes, directly or not. Nothing is compiled and no type is known; names decide.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, ExprAwait, ExprCall, ExprMethodCall, ExprPath, Item, Macro, Token, UseTree};

/// The project's root.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own).to_owned()
}

/// One source file.
pub struct Source {
    /// Its path from the root.
    pub path: String,
    pub file: syn::File,
}

impl Source {
    /// Reads a file; panics if it cannot.
    pub fn read(path: &Path) -> Self {
        Self::try_read(&root(), path).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Parses a text; panics if it cannot.
    pub fn parse(path: &str, text: &str) -> Self {
        Self::try_parse(path, text).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Reads a file below a project's root, relative to which its path is shown.
    fn try_read(root: &Path, path: &Path) -> Result<Self, String> {
        let shown = path.strip_prefix(root).unwrap_or(path).display().to_string();
        let text = fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
        Self::try_parse(&shown, &text)
    }

    fn try_parse(path: &str, text: &str) -> Result<Self, String> {
        let file = syn::parse_file(text).map_err(|error| format!("{path}: {error}"))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// The same without its unit tests.
    pub fn production(&self) -> Self {
        let items = self.file.items.iter().filter(|item| !is_test(item)).cloned().collect();
        Self { path: self.path.clone(), file: syn::File { items, ..self.file.clone() } }
    }

    /// The file's name without its suffix.
    pub fn stem(&self) -> String {
        let name = Path::new(&self.path).file_stem().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// All paths named by expressions, types, imports and arguments of macros: `kit::now`, `std::env::var`.
    pub fn paths(&self) -> Vec<String> {
        let mut names = Names::default();
        names.visit_file(&self.file);
        names.0
    }

    /// The modules it declares.
    pub fn modules(&self) -> Vec<String> {
        let declared = self.file.items.iter().filter_map(|item| match item {
            Item::Mod(module) if module.content.is_none() => Some(module.ident.to_string()),
            _ => None,
        });
        declared.collect()
    }
}

fn is_test(item: &Item) -> bool {
    let attributes = match item {
        Item::Mod(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => return false,
    };
    attributes.iter().any(is_cfg_test)
}

/// Whether an attribute is `#[cfg(test)]`.
pub fn is_cfg_test(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
}

/// All Rust files below a folder, in order.
fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let below = |path: PathBuf| if path.is_dir() { rust_files(&path) } else { vec![path] };
    paths.into_iter().flat_map(below).filter(|path| path.extension().is_some_and(|end| end == "rs")).collect()
}

/// A path as text.
pub fn path_text(path: &syn::Path) -> String {
    path.segments.iter().map(|segment| segment.ident.to_string()).collect::<Vec<_>>().join("::")
}

#[derive(Default)]
struct Names(Vec<String>);

impl<'ast> Visit<'ast> for Names {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.0.push(path_text(path));
        visit::visit_path(self, path);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        import(String::new(), &item.tree, &mut self.0);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        let text = call.tokens.to_string().replace(" :: ", "::").replace(":: ", "::").replace(" ::", "::");
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
        self.0.extend(words.filter(|word| word.contains("::")).map(str::to_owned));
        visit::visit_macro(self, call);
    }
}

fn import(before: String, tree: &UseTree, found: &mut Vec<String>) {
    let join = |name: &dyn ToString| match before.as_str() {
        "" => name.to_string(),
        _ => format!("{before}::{}", name.to_string()),
    };
    match tree {
        UseTree::Path(path) => import(join(&path.ident), &path.tree, found),
        UseTree::Name(name) => found.push(join(&name.ident)),
        UseTree::Rename(rename) => found.push(join(&rename.ident)),
        UseTree::Glob(_) => found.push(join(&"*")),
        UseTree::Group(group) => group.items.iter().for_each(|tree| import(before.clone(), tree, found)),
    }
}

/// A call to AWS: the IAM action, and, for a query of an index, the index.
pub type AwsCall = (&'static str, Option<String>);

/// Operations by the method that begins them or by their name, and writes of a transaction by the type that builds
/// them. A transaction needs no permission of its own, only those of its writes:
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis-iam.html>.
const ACTIONS: [(&str, &str); 21] = [
    ("get_item", "dynamodb:GetItem"),
    ("batch_get_item", "dynamodb:BatchGetItem"),
    ("query", "dynamodb:Query"),
    ("scan", "dynamodb:Scan"),
    ("put_item", "dynamodb:PutItem"),
    ("update_item", "dynamodb:UpdateItem"),
    ("delete_item", "dynamodb:DeleteItem"),
    ("batch_write_item", "dynamodb:BatchWriteItem"),
    ("Put::builder", "dynamodb:PutItem"),
    ("Update::builder", "dynamodb:UpdateItem"),
    ("Delete::builder", "dynamodb:DeleteItem"),
    ("ConditionCheck::builder", "dynamodb:ConditionCheckItem"),
    ("Request::invocation", "lambda:InvokeFunction"),
    ("send_message", "sqs:SendMessage"),
    ("send_message_batch", "sqs:SendMessage"),
    ("change_message_visibility", "sqs:ChangeMessageVisibility"),
    ("get_queue_attributes", "sqs:GetQueueAttributes"),
    ("GetParameter", "ssm:GetParameter"),
    ("PutEvents", "events:PutEvents"),
    ("StartExecution", "states:StartExecution"),
    ("DescribeExecution", "states:DescribeExecution"),
];

fn action(begun_by: &str) -> Option<&'static str> {
    ACTIONS.iter().find(|(method, _)| *method == begun_by).map(|(_, action)| *action)
}

/// The file of a context that another is a part of: `src/dynamo.rs` of `src/dynamo/holds.rs`. A module that is split
/// into files counts as one file.
fn room(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((dir, _)) if dir.rsplit_once("/src/").is_some_and(|(_, room)| room != "usecases") => format!("{dir}.rs"),
        _ => path.to_owned(),
    }
}

/// A function or method and what its body does.
struct Body {
    file: String,
    /// The file, or that of which it is a part: see [`room`].
    room: String,
    stem: String,
    /// The type of an `impl`; `None` for a free function.
    owner: Option<String>,
    /// Whether it implements a trait.
    of_trait: bool,
    /// Whether other crates can call it by its name.
    public: bool,
    /// The modules of `kit` that its file names.
    knows: BTreeSet<String>,
    name: String,
    facts: Facts,
}

#[derive(Default)]
struct Facts {
    aws: BTreeSet<AwsCall>,
    /// Free functions and associated ones, as written.
    paths: BTreeSet<String>,
    /// Methods of `self`.
    own: BTreeSet<String>,
    /// Methods of anything that is awaited: how a port is called.
    awaited: BTreeSet<String>,
    index: Option<String>,
    constants: BTreeMap<String, String>,
}

impl<'ast> Visit<'ast> for Facts {
    fn visit_expr_await(&mut self, awaited: &'ast ExprAwait) {
        if let Expr::MethodCall(call) = awaited.base.as_ref() {
            self.awaited.insert(call.method.to_string());
        }
        visit::visit_expr_await(self, awaited);
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        let method = call.method.to_string();
        // The SDK's clients name an operation by a method, the kit's by its name: `call("PutEvents", ...)`.
        let operation = match call.args.first() {
            None => Some(method.clone()),
            Some(named) => (method == "call").then(|| self.constant(named)),
        };
        if let Some(action) = operation.as_deref().and_then(action) {
            self.aws.insert((action, self.index.clone()));
        }
        if matches!(call.receiver.as_ref(), Expr::Path(path) if path.path.is_ident("self")) {
            self.own.insert(method.clone());
        }
        // `client.query()...index_name(X)`: the index is named outside of the call to which it belongs.
        let index = call.args.first().filter(|_| method == "index_name").map(|named| self.constant(named));
        let inner = index.or_else(|| self.index.clone());
        let outer = std::mem::replace(&mut self.index, inner);
        self.visit_expr(&call.receiver);
        self.index = outer;
        call.args.iter().for_each(|argument| self.visit_expr(argument));
    }

    fn visit_expr_path(&mut self, path: &'ast ExprPath) {
        let text = path_text(&path.path);
        if let Some(action) = action(&text) {
            self.aws.insert((action, None));
        }
        // A single name is a function only where it is called; otherwise it may be a variable.
        if text.contains("::") {
            self.paths.insert(text);
        }
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        if let Expr::Path(function) = call.func.as_ref() {
            self.paths.insert(path_text(&function.path));
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        // Of `join!` and the like the arguments count; those of most others are not a list of expressions.
        if let Ok(arguments) = call.parse_body_with(Punctuated::<Expr, Token![,]>::parse_terminated) {
            for argument in &arguments {
                if let Expr::MethodCall(joined) = argument
                    && call.path.segments.last().is_some_and(|name| name.ident.to_string().ends_with("join"))
                {
                    self.awaited.insert(joined.method.to_string());
                }
                self.visit_expr(argument);
            }
        }
    }
}

impl Facts {
    fn constant(&self, named: &Expr) -> String {
        match named {
            Expr::Lit(literal) => match &literal.lit {
                syn::Lit::Str(text) => text.value(),
                _ => "?".to_owned(),
            },
            Expr::Path(path) => {
                let name = path_text(&path.path);
                self.constants.get(&name).cloned().unwrap_or(name)
            }
            _ => "?".to_owned(),
        }
    }
}

/// The functions of one program and their calls. By names, not by types; what that misses shows as a call to AWS that
/// no handler makes ([`Program::orphans`]).
pub struct Program {
    bodies: Vec<Body>,
}

/// The files of `kit` that call AWS.
const KIT: [&str; 6] = ["dynamo", "idempotency", "invoke", "outbox", "queue", "secrets"];

/// What `kit` does for every consumer of a queue, and the setting with the queue that is affected.
pub const OF_A_CONSUMER: [(&str, &str); 2] = [("Queue::retry_later", "QUEUE"), ("Queue::dead_letter", "DEAD_LETTERS")];

impl Program {
    /// The program of a context, with what it uses of `kit`.
    pub fn of(context: &str) -> Self {
        Self::below(&root(), context).unwrap_or_else(|why| panic!("{why}"))
    }

    /// As [`Program::of`], for the project with that root.
    pub fn below(root: &Path, context: &str) -> Result<Self, String> {
        let of_crate = |name: &str| rust_files(&root.join("functions").join(name).join("src"));
        let is_known = |path: &PathBuf| path.file_stem().is_some_and(|stem| KIT.iter().any(|known| stem == *known));
        let kit = of_crate("kit").into_iter().filter(is_known);
        let files = of_crate(context).into_iter().chain(kit);
        Ok(Self::from(files.map(|path| Source::try_read(root, &path)).collect::<Result<_, _>>()?))
    }

    /// Whether a function of that name in `main` exists.
    pub fn has(&self, path: &str) -> bool {
        !self.named(path, None).is_empty()
    }

    /// A program from its sources.
    pub fn from(sources: Vec<Source>) -> Self {
        let mut constants: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for source in &sources {
            constants.entry(room(&source.path)).or_default().extend(constants_of(&source.file));
        }
        let mut bodies = Vec::new();
        for source in sources {
            let source = source.production();
            let room = room(&source.path);
            let constants = constants.get(&room).cloned().unwrap_or_default();
            let paths = source.paths();
            let of_kit = paths.iter().filter_map(|path| path.strip_prefix("kit::")?.split("::").next());
            let knows: BTreeSet<String> = of_kit.map(str::to_owned).collect();
            let mut add =
                |owner: Option<&str>, of_trait, vis: &syn::Visibility, name: &syn::Ident, block: &syn::Block| {
                    let mut facts = Facts { constants: constants.clone(), ..Facts::default() };
                    facts.visit_block(block);
                    bodies.push(Body {
                        file: source.path.clone(),
                        room: room.clone(),
                        stem: source.stem(),
                        owner: owner.map(str::to_owned),
                        of_trait,
                        public: of_trait || matches!(vis, syn::Visibility::Public(_)),
                        knows: knows.clone(),
                        name: name.to_string(),
                        facts,
                    });
                };
            for item in &source.file.items {
                match item {
                    Item::Fn(function) => add(None, false, &function.vis, &function.sig.ident, &function.block),
                    Item::Impl(block) => {
                        let owner = match block.self_ty.as_ref() {
                            syn::Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
                            _ => None,
                        };
                        for item in &block.items {
                            if let syn::ImplItem::Fn(method) = item {
                                let owner = Some(owner.as_deref().unwrap_or("?"));
                                add(owner, block.trait_.is_some(), &method.vis, &method.sig.ident, &method.block);
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        Self { bodies }
    }

    /// The AWS calls that a function makes, directly or not, each with the function that makes it. `path` is its name
    /// in `main`: `handlers::reserve_seats`, `Relay::sweep_all`.
    pub fn aws_calls(&self, path: &str) -> BTreeMap<AwsCall, String> {
        let mut calls = BTreeMap::new();
        for index in self.reach(path) {
            let body = &self.bodies[index];
            for call in &body.facts.aws {
                calls.entry(call.clone()).or_insert_with(|| format!("{}, {}", body.file, body.name));
            }
        }
        calls
    }

    /// Functions of this program that call AWS and are not reached from any of `paths`.
    pub fn orphans(&self, paths: &[String]) -> Vec<String> {
        let reached: BTreeSet<usize> = paths.iter().flat_map(|path| self.reach(path)).collect();
        let calling = self
            .bodies
            .iter()
            .enumerate()
            .filter(|(index, body)| !body.facts.aws.is_empty() && !reached.contains(index) && !body.is_kits());
        calling.map(|(_, body)| format!("{}: {} calls AWS, but for no handler", body.file, body.name)).collect()
    }

    /// The functions of `kit` that call AWS, and whether each is reached from one of `paths`.
    pub fn of_kit(&self, paths: &[String]) -> BTreeMap<String, bool> {
        let reached: BTreeSet<usize> = paths.iter().flat_map(|path| self.reach(path)).collect();
        let calling = self.bodies.iter().enumerate().filter(|(_, body)| body.is_kits() && !body.facts.aws.is_empty());
        calling.map(|(index, body)| (format!("{}: {}", body.file, body.name), reached.contains(&index))).collect()
    }

    fn reach(&self, path: &str) -> BTreeSet<usize> {
        let mut open: Vec<usize> = self.named(path, None);
        assert!(!open.is_empty(), "no function {path}");
        let mut reached = BTreeSet::new();
        while let Some(index) = open.pop() {
            if !reached.insert(index) {
                continue;
            }
            let caller = &self.bodies[index];
            for path in &caller.facts.paths {
                open.extend(self.named(path, Some(caller)));
            }
            for method in &caller.facts.own {
                let own = self.methods(method).filter(|(_, body)| body.room == caller.room);
                let own: Vec<usize> = own.map(|(index, _)| index).collect();
                let kits = self.methods(method).filter(|(_, body)| caller.may_ask_kit(body));
                open.extend(if own.is_empty() { kits.map(|(index, _)| index).collect() } else { own });
            }
            for method in &caller.facts.awaited {
                let awaited = self.methods(method).filter(|(_, body)| match (caller.is_kits(), caller.is_adapter()) {
                    (true, _) => body.room == caller.room,
                    (false, true) => caller.may_ask_kit(body),
                    // Outside of the adapters an awaited method is a port's.
                    (false, false) => body.of_trait && !body.is_kits(),
                });
                open.extend(awaited.map(|(index, _)| index));
            }
        }
        reached
    }

    fn methods(&self, name: &str) -> impl Iterator<Item = (usize, &Body)> {
        self.bodies.iter().enumerate().filter(move |(_, body)| body.owner.is_some() && body.name == name)
    }

    fn named(&self, path: &str, caller: Option<&Body>) -> Vec<usize> {
        let mut parts = path.rsplit("::");
        let name = parts.next().unwrap_or_default();
        let Some(within) = parts.next() else {
            let free: Vec<_> = self
                .bodies
                .iter()
                .enumerate()
                .filter(|(_, body)| body.owner.is_none() && body.name == name)
                .filter(|(_, body)| !body.is_kits() || caller.is_some_and(|caller| caller.room == body.room))
                // The code behind the handlers does not call them.
                .filter(|(_, body)| body.stem != "handlers" || caller.is_none_or(|caller| caller.room == body.room))
                .collect();
            // A function of the same file comes before an imported one; `main` imports use cases by name.
            let here: Vec<usize> = free
                .iter()
                .filter(|(_, body)| caller.map_or(body.stem == name, |caller| caller.room == body.room))
                .map(|(index, _)| *index)
                .collect();
            return if here.is_empty() { free.into_iter().map(|(index, _)| index).collect() } else { here };
        };
        let found = self.bodies.iter().enumerate().filter(|(_, body)| {
            body.name == name
                && match &body.owner {
                    None => body.stem == within,
                    Some(_) if within == "Self" => caller.is_some_and(|caller| caller.room == body.room),
                    Some(owner) => owner == within,
                }
        });
        found.map(|(index, _)| index).collect()
    }
}

impl Body {
    fn is_kits(&self) -> bool {
        self.file.contains("/kit/")
    }

    /// Whether a call of a method of this name may be one of `kit`'s.
    fn may_ask_kit(&self, of_kit: &Self) -> bool {
        of_kit.is_kits() && of_kit.public && self.knows.contains(&of_kit.stem)
    }

    fn is_adapter(&self) -> bool {
        !self.file.contains("/usecases/") && self.stem != "handlers" && self.stem != "main"
    }
}

fn constants_of(file: &syn::File) -> BTreeMap<String, String> {
    let texts = file.items.iter().filter_map(|item| match item {
        Item::Const(constant) => match constant.expr.as_ref() {
            Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => {
                Some((constant.ident.to_string(), text.value()))
            }
            _ => None,
        },
        _ => None,
    });
    texts.collect()
}

/// A handler in a context's `main`.
pub struct Arm {
    /// `http`, `step`, `queue`, `batch`, `logs`, `stream` or `schedule`.
    pub kind: String,
    /// The function that serves it, by its name in `main`.
    pub serves: String,
    /// The settings read for it, alone or among others: name, and whether it has a default.
    pub settings: BTreeMap<String, bool>,
    /// Those of them that `main` names; the others are read by `kit` for every handler of a kind.
    pub named: BTreeSet<String>,
}

/// A context's `main`: its handlers, and the settings read whatever the handler is.
pub struct Main {
    /// By handler name.
    pub arms: BTreeMap<String, Arm>,
    /// Read before the handler is chosen.
    pub always: BTreeMap<String, bool>,
}

/// The settings that each method of `Boot` reads by itself.
static BOOT_SETTINGS: LazyLock<BTreeMap<String, BTreeSet<String>>> = LazyLock::new(boot_settings);

fn boot_settings() -> BTreeMap<String, BTreeSet<String>> {
    #[derive(Default)]
    struct Reads(BTreeSet<String>, Vec<String>);
    impl<'ast> Visit<'ast> for Reads {
        fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
            if matches!(call.receiver.as_ref(), Expr::Path(path) if path.path.is_ident("self")) {
                match call.args.first() {
                    Some(Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(name), .. })) if call.method == "setting" => {
                        self.0.insert(name.value());
                    }
                    _ => self.1.push(call.method.to_string()),
                }
            }
            visit::visit_expr_method_call(self, call);
        }
    }
    let boot = Source::read(&root().join("functions/kit/src/boot.rs"));
    let mut methods = BTreeMap::new();
    for item in &boot.file.items {
        let Item::Impl(block) = item else { continue };
        for item in &block.items {
            let syn::ImplItem::Fn(method) = item else { continue };
            let mut reads = Reads::default();
            reads.visit_block(&method.block);
            methods.insert(method.sig.ident.to_string(), reads);
        }
    }
    let with_called = |reads: &Reads| {
        let called = reads.1.iter().filter_map(|method| methods.get(method)).flat_map(|reads| &reads.0);
        reads.0.iter().chain(called).cloned().collect()
    };
    let settings = methods.iter().map(|(method, reads)| (method.clone(), with_called(reads)));
    settings.filter(|(_, names): &(String, BTreeSet<String>)| !names.is_empty()).collect()
}
/// The methods of `Boot` that serve.
const KINDS: [&str; 7] = ["http", "step", "queue", "batch", "logs", "stream", "schedule"];

#[derive(Default, Clone)]
struct Wiring {
    settings: BTreeMap<String, bool>,
    /// The methods of `Boot` it calls.
    of_boot: BTreeSet<String>,
    calls: BTreeSet<String>,
    serves: Option<(String, String)>,
}

impl<'ast> Visit<'ast> for Wiring {
    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        let method = call.method.to_string();
        let of_boot = matches!(call.receiver.as_ref(), Expr::Path(path) if path.path.is_ident("boot"));
        if of_boot
            && KINDS.contains(&method.as_str())
            && let Some(Expr::Path(serves)) = call.args.last()
        {
            self.serves = Some((method.clone(), path_text(&serves.path)));
        }
        if of_boot {
            self.of_boot.insert(method.clone());
        }
        if of_boot
            && method == "setting_or"
            && let Some(Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(name), .. })) = call.args.first()
        {
            self.settings.insert(name.value(), true);
            call.args.iter().skip(1).for_each(|argument| self.visit_expr(argument));
            return;
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
        // The name of a setting may be handed to a closure that reads it.
        let text = text.value();
        let is_name = text.len() > 2 && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        if is_name {
            self.settings.entry(text).or_insert(false);
        }
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        if let Expr::Path(function) = call.func.as_ref() {
            self.calls.insert(path_text(&function.path));
        }
        visit::visit_expr_call(self, call);
    }
}

impl Main {
    /// The `main` of a context.
    pub fn of(context: &str) -> Self {
        Self::below(&root(), context).unwrap_or_else(|why| panic!("{why}"))
    }

    /// As [`Main::of`], for the project with that root.
    pub fn below(root: &Path, context: &str) -> Result<Self, String> {
        Self::try_parse(&Source::try_read(root, &root.join("functions").join(context).join("src/main.rs"))?)
    }

    /// A `main` from its source; panics if it is not one of a context.
    pub fn parse(source: &Source) -> Self {
        Self::try_parse(source).unwrap_or_else(|why| panic!("{why}"))
    }

    fn try_parse(source: &Source) -> Result<Self, String> {
        let mut helpers: BTreeMap<String, Wiring> = BTreeMap::new();
        let mut main = None;
        for item in &source.file.items {
            if let Item::Fn(function) = item {
                if function.sig.ident == "main" {
                    main = Some(&function.block);
                } else {
                    let mut wiring = Wiring::default();
                    wiring.visit_block(&function.block);
                    helpers.insert(function.sig.ident.to_string(), wiring);
                }
            }
        }
        let main = main.ok_or_else(|| format!("{} has no main", source.path))?;
        let mut always = Wiring::default();
        let mut arms = Vec::new();
        for statement in &main.stmts {
            match statement {
                syn::Stmt::Local(local) => {
                    let Some(init) = &local.init else { continue };
                    if let (Expr::Closure(closure), syn::Pat::Ident(name)) = (init.expr.as_ref(), &local.pat) {
                        let mut wiring = Wiring::default();
                        wiring.visit_expr(&closure.body);
                        helpers.insert(name.ident.to_string(), wiring);
                    } else {
                        always.visit_expr(&init.expr);
                    }
                }
                syn::Stmt::Expr(Expr::Match(chosen), _) => arms.extend(&chosen.arms),
                other => visit::visit_stmt(&mut always, other),
            }
        }
        let mut handlers = BTreeMap::new();
        for arm in arms {
            let syn::Pat::Lit(syn::ExprLit { lit: syn::Lit::Str(name), .. }) = &arm.pat else { continue };
            let mut wiring = Wiring::default();
            wiring.visit_expr(&arm.body);
            let serves = wiring.serves.clone();
            let (kind, serves) = serves.ok_or_else(|| {
                format!("{}: {} serves nothing: call boot.http, boot.step, ...", source.path, name.value())
            })?;
            let whole = with_helpers(&wiring, &helpers);
            let (settings, named) = (whole.all_settings(), whole.settings.into_keys().collect());
            handlers.insert(name.value(), Arm { kind, serves, settings, named });
        }
        if handlers.is_empty() {
            return Err(format!("{} has no handlers", source.path));
        }
        Ok(Self { arms: handlers, always: with_helpers(&always, &helpers).all_settings() })
    }
}

/// The settings that a piece of `main` and the helpers it calls read.
fn with_helpers(wiring: &Wiring, helpers: &BTreeMap<String, Wiring>) -> Wiring {
    let mut whole = wiring.clone();
    let mut open: Vec<String> = wiring.calls.iter().cloned().collect();
    let mut seen = BTreeSet::new();
    while let Some(call) = open.pop() {
        if let Some(helper) = helpers.get(&call)
            && seen.insert(call)
        {
            whole.settings.extend(helper.settings.clone());
            whole.of_boot.extend(helper.of_boot.iter().cloned());
            open.extend(helper.calls.iter().cloned());
        }
    }
    whole
}

impl Wiring {
    /// The settings it names, and those that the methods of `Boot` read by themselves.
    fn all_settings(&self) -> BTreeMap<String, bool> {
        let by_themselves = self.of_boot.iter().filter_map(|method| BOOT_SETTINGS.get(method)).flatten();
        by_themselves.map(|name| (name.clone(), false)).chain(self.settings.clone()).collect()
    }
}

#[test]
fn calls_are_followed_from_the_handler_through_ports_and_helpers_to_aws() {
    let handlers = "pub async fn pay(deps: &D, call: Call) -> R { usecase::usecase(&deps.store, call).await }";
    let usecase = "pub async fn usecase(store: &impl Write, c: Call) -> R {
        if c.ids.iter().find(|id| id.is_bad()).is_some() { return other(); }
        store.write(c).await }
        fn other() -> R { Err(()) }";
    let store = "impl Store {
            async fn read(&self) { self.table.client.query().index_name(DUE).limit(1).send().await }
        }
        impl Write for Store { async fn write(&self, c: Call) { self.read().await; helper(self.put()) } }
        impl Find for Store { async fn find(&self) { self.table.client.get_item().send().await } }
        fn helper(put: Put) -> W { W::from(Update::builder().build(), put, idempotency::remember()) }
        #[cfg(test)] mod tests { fn t() { client.scan().send() } }";
    let rows = "pub const DUE: &str = \"due\"; impl Store { fn put(&self) -> Put { Put::builder().build() } }";
    let kit = "pub fn remember() -> Delete { Delete::builder().build() }";
    // A method of kit is meant where its module is named, if possible; inside of kit, one of the same file.
    let relaying = "use kit::outbox::Bus;
        pub async fn relay(r: &R, c: Call) -> R { r.bus.publish().await; r.bus.settle().await; r.secret.get().await }";
    let outbox = "impl Bus {
            pub async fn publish(&self) { self.inner.put().await }
            pub async fn put(&self) { client.call(\"PutEvents\", &entries).await }
            async fn settle(&self) { client.send_message().send().await }
        }";
    let secrets = "impl Secret { pub async fn get(&self) { client.call(\"GetParameter\", &wanted).await } }";
    let program = Program::from(vec![
        Source::parse("functions/x/src/handlers.rs", handlers),
        Source::parse("functions/x/src/usecases/usecase.rs", usecase),
        Source::parse("functions/x/src/dynamo.rs", store),
        Source::parse("functions/x/src/dynamo/rows.rs", rows),
        Source::parse("functions/kit/src/idempotency.rs", kit),
        Source::parse("functions/x/src/relaying.rs", relaying),
        Source::parse("functions/kit/src/outbox.rs", outbox),
        Source::parse("functions/kit/src/secrets.rs", secrets),
    ]);
    let calls: Vec<AwsCall> = program.aws_calls("handlers::pay").into_keys().collect();
    assert_eq!(
        calls,
        [
            ("dynamodb:DeleteItem", None),
            ("dynamodb:PutItem", None),
            ("dynamodb:Query", Some("due".to_owned())),
            ("dynamodb:UpdateItem", None),
        ]
    );
    let relayed: Vec<AwsCall> = program.aws_calls("relaying::relay").into_keys().collect();
    assert_eq!(relayed, [("events:PutEvents", None)]);
    let reached = program.of_kit(&["relaying::relay".to_owned()]);
    assert_eq!(reached.values().filter(|reached| **reached).count(), 1, "{reached:?}");
    let orphans = program.orphans(&["handlers::pay".to_owned()]);
    assert_eq!(orphans, ["functions/x/src/dynamo.rs: find calls AWS, but for no handler"]);
}

#[test]
fn settings_are_found_in_arms_helpers_and_closures() {
    let main = Main::parse(&Source::parse(
        "main.rs",
        r#"
        async fn main() -> MainResult {
            let boot = Boot::start()?;
            let line = Lines::new(boot.table()?, boot.setting_or("SHARDS", 1)?);
            let admin = |step| -> R { Ok(Deps { client: boot.function(step)?, users: boot.user_tokens()? }) };
            match boot.handler() {
                "a-b" => boot.http(joining(&boot)?, handlers::a_b).await,
                "c-d" => { let deps = admin("OTHER_FUNCTION")?; boot.step(deps, c_d).await }
                "e-f" => boot.schedule(boot.relay("x")?, Relay::sweep_all).await,
                "g-h" => boot.batch(Queue::new(boot.sqs(), boot.setting("QUEUE")?), handlers::g_h).await,
                "i-j" => boot.queue(boot.secret("ACCESS")?, handlers::i_j).await,
                _ => boot.unknown_handler(),
            }
        }
        fn joining(boot: &Boot) -> R { Ok(J { tokens: boot.queue_tokens()?, open: boot.setting_or("OPEN", true)? }) }
        "#,
    ));
    let settings = |handler: &str| main.arms[handler].settings.clone().into_iter().collect::<Vec<_>>();
    let required = |name: &str| (name.to_owned(), false);
    assert_eq!(main.always.clone().into_iter().collect::<Vec<_>>(), [("SHARDS".to_owned(), true), required("TABLE")]);
    assert_eq!(settings("a-b"), [("OPEN".to_owned(), true), required("QUEUE_TOKEN_KEYS")]);
    assert_eq!(settings("c-d"), ["OTHER_FUNCTION", "USER_JWKS", "USER_TOKEN_ISSUER"].map(required));
    assert_eq!(settings("e-f"), ["EVENT_BUS", "TABLE"].map(required));
    assert_eq!(settings("g-h"), ["DEAD_LETTERS", "QUEUE"].map(required));
    assert_eq!(settings("i-j"), ["ACCESS", "DEAD_LETTERS", "QUEUE"].map(required));
    let named = |handler: &str| main.arms[handler].named.iter().cloned().collect::<Vec<_>>();
    assert_eq!((named("e-f"), named("g-h"), named("i-j")), (vec![], vec!["QUEUE".into()], vec!["ACCESS".into()]));
    let served = |handler: &str| (main.arms[handler].kind.as_str(), main.arms[handler].serves.as_str());
    assert_eq!(served("a-b"), ("http", "handlers::a_b"));
    assert_eq!(served("c-d"), ("step", "c_d"));
    assert_eq!(served("e-f"), ("schedule", "Relay::sweep_all"));
}
