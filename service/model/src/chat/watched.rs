//! A template's source with checks where its values could grow out of bounds.
//!
//! Fuel pays for what the engine allocates, by size. It does not see how large a value is once what it shares is
//! written out: twenty-five rounds of `x = [x, x]` cost a few hundred steps and print gigabytes, and a list times a
//! million million is one step. Whatever grows like that has to name what it has grown to; so every variable that the
//! template binds goes through [`WATCH`] where it is read, as does what goes into a filter. What a namespace is given
//! goes through [`STORE`]: a namespace within itself would never be freed. Factors go through [`FACTOR`], which takes
//! no lists.
//!
//! This reads the engine's syntax tree, which its makers may change in any release; the lock file holds the release,
//! and the tests of this crate would tell.

use std::collections::HashSet;

use minijinja::{
    Error,
    machinery::{
        ast::{BinOpKind, Call, CallArg, Expr, Macro, Stmt},
        parse,
    },
    syntax::SyntaxConfig,
};

pub(super) const WATCH: &str = "__watch";
pub(super) const STORE: &str = "__store";
pub(super) const FACTOR: &str = "__factor";

/// What is wrong with a template.
pub(super) enum Refused {
    Syntax(Error),
    ListProduct,
}

pub(super) fn watched(source: &str, syntax: SyntaxConfig) -> Result<String, Refused> {
    let template = parse(source, "chat", syntax).map_err(Refused::Syntax)?;
    let mut names = Names::default();
    names.statement(&template);
    let mut visit = Visit {
        source,
        bound: names.0,
        insertions: Vec::new(),
        list_product: false,
    };
    visit.statement(&template);
    if visit.list_product {
        return Err(Refused::ListProduct);
    }
    // Stable, so what belongs to an inner expression stays within what belongs to an outer one.
    visit.insertions.sort_by_key(|(at, _)| *at);
    let mut text = String::with_capacity(source.len() + 16 * visit.insertions.len());
    let mut from = 0;
    for (at, inserted) in visit.insertions {
        text.push_str(&source[from..at]);
        text.push_str(&inserted);
        from = at;
    }
    text.push_str(&source[from..]);
    Ok(text)
}

/// Every name the template gives to something.
#[derive(Default)]
struct Names<'a>(HashSet<&'a str>);

impl<'a> Names<'a> {
    fn statements(&mut self, statements: &[Stmt<'a>]) {
        for statement in statements {
            self.statement(statement);
        }
    }

    fn statement(&mut self, statement: &Stmt<'a>) {
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::ForLoop(it) => {
                self.target(&it.target);
                self.statements(&it.body);
                self.statements(&it.else_body);
            }
            Stmt::IfCond(it) => {
                self.statements(&it.true_body);
                self.statements(&it.false_body);
            }
            Stmt::WithBlock(it) => {
                for (target, _) in &it.assignments {
                    self.target(target);
                }
                self.statements(&it.body);
            }
            Stmt::Set(it) => self.target(&it.target),
            Stmt::SetBlock(it) => {
                self.target(&it.target);
                self.statements(&it.body);
            }
            Stmt::AutoEscape(it) => self.statements(&it.body),
            Stmt::FilterBlock(it) => self.statements(&it.body),
            Stmt::Macro(it) => self.parameters(it),
            Stmt::CallBlock(it) => self.parameters(&it.macro_decl),
            Stmt::EmitExpr(_) | Stmt::EmitRaw(_) | Stmt::Do(_) => {}
            Stmt::Continue(_) | Stmt::Break(_) => {}
        }
    }

    fn parameters(&mut self, of: &Macro<'a>) {
        for parameter in &of.args {
            self.target(parameter);
        }
        // Also bound in every macro.
        self.0.extend(["varargs", "kwargs"]);
        self.statements(&of.body);
    }

    fn target(&mut self, target: &Expr<'a>) {
        match target {
            Expr::Var(name) => {
                self.0.insert(name.id);
            }
            Expr::List(list) => list.items.iter().for_each(|item| self.target(item)),
            // An attribute of a namespace, whose own name is bound elsewhere.
            _ => {}
        }
    }
}

struct Visit<'a> {
    source: &'a str,
    bound: HashSet<&'a str>,
    insertions: Vec<(usize, String)>,
    list_product: bool,
}

impl<'a> Visit<'a> {
    fn insert(&mut self, at: usize, text: impl Into<String>) {
        self.insertions.push((at, text.into()));
    }

    fn statements(&mut self, statements: &[Stmt<'a>]) {
        for statement in statements {
            self.statement(statement);
        }
    }

    fn statement(&mut self, statement: &Stmt<'a>) {
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitExpr(it) => self.expression(&it.expr),
            Stmt::EmitRaw(_) | Stmt::Continue(_) | Stmt::Break(_) => {}
            Stmt::ForLoop(it) => {
                self.expression(&it.iter);
                self.all(it.filter_expr.as_ref());
                self.statements(&it.body);
                self.statements(&it.else_body);
            }
            Stmt::IfCond(it) => {
                self.expression(&it.expr);
                self.statements(&it.true_body);
                self.statements(&it.false_body);
            }
            Stmt::WithBlock(it) => {
                self.all(it.assignments.iter().map(|(_, value)| value));
                self.statements(&it.body);
            }
            Stmt::Set(it) => {
                if !matches!(it.target, Expr::Var(_)) {
                    self.stored(
                        it.span().start_offset as usize,
                        it.span().end_offset as usize,
                    );
                }
                self.expression(&it.expr);
            }
            Stmt::SetBlock(it) => {
                self.all(it.filter.as_ref());
                if let (Some(filter), Expr::GetAttr(_) | Expr::List(_)) = (&it.filter, &it.target) {
                    self.insert(filter.span().end_offset as usize, format!("|{STORE}"));
                }
                self.statements(&it.body);
            }
            Stmt::AutoEscape(it) => {
                self.expression(&it.enabled);
                self.statements(&it.body);
            }
            Stmt::FilterBlock(it) => {
                self.expression(&it.filter);
                self.statements(&it.body);
            }
            Stmt::Macro(it) => self.body(it),
            Stmt::CallBlock(it) => {
                self.call(&it.call);
                self.body(&it.macro_decl);
            }
            Stmt::Do(it) => self.call(&it.call),
        }
    }

    fn body(&mut self, of: &Macro<'a>) {
        self.all(&of.defaults);
        self.statements(&of.body);
    }

    /// From behind the `=`, of which a target has none, to the end of the statement.
    fn stored(&mut self, start: usize, end: usize) {
        if let Some(equals) = self.source[start..end].find('=') {
            self.insert(start + equals + 1, "(");
            self.insert(end, format!(")|{STORE}"));
        }
    }

    fn all<'e>(&mut self, expressions: impl IntoIterator<Item = &'e Expr<'a>>)
    where
        'a: 'e,
    {
        for expression in expressions {
            self.expression(expression);
        }
    }

    fn call(&mut self, call: &Call<'a>) {
        // What is called by name is a macro or a function and goes nowhere.
        if !matches!(call.expr, Expr::Var(_)) {
            self.expression(&call.expr);
        }
        self.arguments(&call.args);
    }

    fn arguments(&mut self, arguments: &[CallArg<'a>]) {
        for argument in arguments {
            let (CallArg::Pos(value)
            | CallArg::Kwarg(_, value)
            | CallArg::PosSplat(value)
            | CallArg::KwargSplat(value)) = argument;
            self.expression(value);
        }
    }

    fn expression(&mut self, expression: &Expr<'a>) {
        match expression {
            Expr::Const(_) => {}
            Expr::Var(name) => {
                if self.bound.contains(name.id) {
                    let span = name.span();
                    self.insert(span.start_offset as usize, "(");
                    self.insert(span.end_offset as usize, format!("|{WATCH})"));
                }
            }
            Expr::Slice(it) => {
                self.expression(&it.expr);
                self.all([&it.start, &it.stop, &it.step].into_iter().flatten());
            }
            Expr::UnaryOp(it) => self.expression(&it.expr),
            Expr::BinOp(it) => {
                self.expression(&it.left);
                self.expression(&it.right);
                if matches!(it.op, BinOpKind::Mul) {
                    self.factor(&it.left);
                    self.factor(&it.right);
                }
            }
            Expr::Compare(it) => {
                self.expression(&it.expr);
                self.all(it.ops.iter().map(|op| &op.expr));
            }
            Expr::IfExpr(it) => {
                self.expression(&it.test_expr);
                self.expression(&it.true_expr);
                self.all(it.false_expr.as_ref());
            }
            Expr::Filter(it) => {
                if let Some(input) = &it.expr {
                    // The span begins with the name, which only the bar stands before.
                    let name = it.span().start_offset as usize;
                    if let Some(bar) = self.source[..name].rfind('|') {
                        self.insert(bar, format!("|{WATCH}"));
                    }
                    self.expression(input);
                }
                self.arguments(&it.args);
            }
            Expr::Test(it) => {
                self.expression(&it.expr);
                self.arguments(&it.args);
            }
            Expr::GetAttr(it) => self.expression(&it.expr),
            Expr::GetItem(it) => {
                self.expression(&it.expr);
                self.expression(&it.subscript_expr);
            }
            Expr::Call(it) => self.call(it),
            Expr::List(it) => self.all(&it.items),
            Expr::Tuple(it) => self.all(&it.items),
            Expr::Map(it) => {
                self.all(&it.keys);
                self.all(&it.values);
            }
        }
    }

    /// Its parts have been visited.
    fn factor(&mut self, expression: &Expr<'a>) {
        let end = expression.span().end_offset as usize;
        match expression {
            Expr::Const(_) | Expr::Compare(_) | Expr::Test(_) => {}
            Expr::List(_) | Expr::Tuple(_) | Expr::Map(_) => self.list_product = true,
            Expr::Filter(_) => self.insert(end, format!("|{FACTOR}")),
            Expr::UnaryOp(it) => self.factor(&it.expr),
            Expr::BinOp(it) => {
                self.factor(&it.left);
                self.factor(&it.right);
            }
            Expr::IfExpr(it) => {
                self.factor(&it.true_expr);
                if let Some(otherwise) = &it.false_expr {
                    self.factor(otherwise);
                }
            }
            Expr::Var(_) | Expr::Slice(_) | Expr::GetAttr(_) | Expr::GetItem(_) | Expr::Call(_) => {
                match start(expression) {
                    Some(start) => {
                        self.insert(start, "(");
                        self.insert(end, format!("|{FACTOR})"));
                    }
                    None => self.list_product = true,
                }
            }
        }
    }
}

/// Where an expression begins, unless that may be at a parenthesis, which the tree does not have.
fn start(expression: &Expr<'_>) -> Option<usize> {
    match expression {
        Expr::Var(it) => Some(it.span().start_offset as usize),
        Expr::Slice(it) => start(&it.expr),
        Expr::GetAttr(it) => start(&it.expr),
        Expr::GetItem(it) => start(&it.expr),
        Expr::Call(it) => start(&it.expr),
        _ => None,
    }
}
