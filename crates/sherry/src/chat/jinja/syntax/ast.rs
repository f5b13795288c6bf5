//! A compiled template.

use num_bigint::BigInt;

use super::super::text::Text;

/// Where a variable lives: so many functions outwards, in this slot of its variables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Place {
    pub hops: u32,
    pub slot: u32,
}

/// A variable as it is read or set.
#[derive(Debug)]
pub(in super::super) struct Variable {
    pub name: String,
    pub place: Place,
}

/// What happens to a variable when its scope is entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Load {
    /// It is what the template's globals say, if they have the name.
    Resolve(String),
    /// It begins as the outer variable of that name.
    Alias(Place),
    /// It begins without a value.
    Undefined,
}

/// Variables of a scope: slots of the function around it.
#[derive(Debug, Default)]
pub(in super::super) struct Scope {
    /// Set up at the start.
    pub loads: Vec<(u32, Load)>,
    /// All of its variables, which are forgotten at the end.
    pub slots: Vec<u32>,
}

/// A body with variables of its own that are not gone when it ends: whoever was defined inside may still use them.
#[derive(Debug, Default)]
pub(in super::super) struct Function {
    pub scope: Scope,
    /// How many variables all scopes inside have.
    pub slots: u32,
}

#[derive(Debug)]
pub(in super::super) struct Statement {
    pub line: u32,
    pub kind: StatementKind,
}

pub(in super::super) type Body = Vec<Statement>;

#[derive(Debug)]
pub(in super::super) enum StatementKind {
    Output(Vec<Piece>),
    For(Box<For>),
    /// Branches with their conditions, and what happens if none holds.
    If(Vec<(Expr, Body)>, Body),
    Set(Target, Expr),
    SetBlock(Box<SetBlock>),
    With(Box<With>),
    Macro(Box<Macro>),
    Call(Box<CallBlock>),
    Filter(Box<FilterBlock>),
    Autoescape(Box<Autoescape>),
    /// `{% generation %}`: a function called on the spot.
    Generation(Box<Macro>),
    Block(Box<BlockCall>),
    /// Inheritance, includes and imports: the tag, the other template's name, and the variables that are set.
    Load(&'static str, Expr, Vec<String>),
    Break,
    Continue,
}

/// Whether printed values are escaped for HTML.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) enum Escape {
    #[default]
    No,
    Yes,
    /// Known when it is reached.
    Runtime,
}

/// Part of an output.
#[derive(Debug)]
pub(in super::super) enum Piece {
    Data(Text),
    /// An expression, its line, and whether it is escaped.
    Print(Expr, u32, Escape),
}

#[derive(Debug)]
pub(in super::super) struct For {
    pub target: Target,
    pub iterable: Expr,
    pub condition: Option<Condition>,
    pub body: Body,
    pub otherwise: Body,
    pub recursive: bool,
    pub scope: Scope,
    pub otherwise_scope: Scope,
    /// The variable `loop`.
    pub state: u32,
    /// Recursive loops are functions.
    pub function: Function,
    pub escape: Escape,
}

/// Which items a loop takes: a function of its own.
#[derive(Debug)]
pub(in super::super) struct Condition {
    pub test: Expr,
    pub target: Target,
    pub function: Function,
}

#[derive(Debug)]
pub(in super::super) struct SetBlock {
    pub target: Target,
    pub filter: Option<Expr>,
    pub body: Body,
    pub scope: Scope,
    pub escape: Escape,
}

#[derive(Debug)]
pub(in super::super) struct With {
    pub targets: Vec<Target>,
    pub values: Vec<Expr>,
    pub body: Body,
    pub scope: Scope,
}

/// A macro, or the body of a `call` or `generation` block.
#[derive(Debug)]
pub(in super::super) struct Macro {
    /// `None` for the body of a block.
    pub name: Option<String>,
    /// Where a named one is stored.
    pub target: Target,
    pub parameters: Vec<Variable>,
    /// Of the last parameters.
    pub defaults: Vec<Expr>,
    /// The slots of `caller`, `kwargs` and `varargs`, where the body uses them.
    pub caller: Option<u32>,
    pub kwargs: Option<u32>,
    pub varargs: Option<u32>,
    pub body: Body,
    pub function: Function,
}

#[derive(Debug)]
pub(in super::super) struct CallBlock {
    pub call: Call,
    pub block: Macro,
    pub escape: Escape,
}

#[derive(Debug)]
pub(in super::super) struct FilterBlock {
    pub filter: Expr,
    pub body: Body,
    pub scope: Scope,
    pub escape: Escape,
}

#[derive(Debug)]
pub(in super::super) struct Autoescape {
    pub enabled: Expr,
    pub body: Body,
    pub scope: Scope,
}

/// The place of a `block`: its contents are called like a function.
#[derive(Debug)]
pub(in super::super) struct BlockCall {
    pub name: String,
    /// Until they are moved to [`Template::blocks`].
    pub contents: Body,
    /// Which of those.
    pub index: usize,
    /// `scoped`: the variables of the scopes around, which are visible inside.
    pub visible: Option<Vec<Variable>>,
    pub required: bool,
}

/// The contents of a `block`.
#[derive(Debug)]
pub(in super::super) struct Block {
    pub name: String,
    pub body: Body,
    pub function: Function,
    /// The slots of `self` and `super`, where they are used.
    pub this: Option<u32>,
    pub parent: Option<u32>,
}

/// What an assignment sets.
#[derive(Debug)]
pub(in super::super) enum Target {
    /// A variable; `exported` ones are global.
    Variable(Variable, bool),
    /// An attribute of a namespace.
    Attribute(Variable, String),
    Tuple(Vec<Target>),
}

#[derive(Debug)]
pub(in super::super) enum Expr {
    Const(Constant),
    Variable(Variable),
    Tuple(Vec<Expr>),
    List(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Attribute(Box<Expr>, String),
    Item(Box<Expr>, Box<Expr>),
    /// Start, stop and step.
    Slice(Box<Expr>, Box<[Option<Expr>; 3]>),
    Call(Box<Call>),
    Filter(Box<Filter>),
    Test(Box<Filter>),
    Binary(Operator, Box<(Expr, Expr)>),
    Concat(Vec<Expr>, Escape),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Not(Box<Expr>),
    And(Box<(Expr, Expr)>),
    Or(Box<(Expr, Expr)>),
    /// Value, condition, otherwise.
    Conditional(Box<(Expr, Expr, Option<Expr>)>),
    /// Inside a `filter` or `set` block: the text of the block.
    Captured,
}

#[derive(Debug)]
pub(in super::super) enum Constant {
    None,
    Bool(bool),
    Int(i64),
    Big(BigInt),
    Float(f64),
    Text(Text),
}

#[derive(Debug, Default)]
pub(in super::super) struct Arguments {
    pub positional: Vec<Expr>,
    pub named: Vec<(Text, Expr)>,
    /// `*expression`
    pub more: Option<Expr>,
    /// `**expression`
    pub more_named: Option<Expr>,
}

#[derive(Debug)]
pub(in super::super) struct Call {
    pub callee: Expr,
    pub arguments: Arguments,
}

/// A filter or test with what it is applied to. The name need not exist unless it is reached.
#[derive(Debug)]
pub(in super::super) struct Filter {
    pub name: String,
    pub value: Expr,
    pub arguments: Arguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
}

impl Operator {
    pub fn sign(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::FloorDivide => "//",
            Self::Modulo => "%",
            Self::Power => "**",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
}

/// A whole template.
#[derive(Debug, Default)]
pub(in super::super) struct Template {
    pub body: Body,
    pub blocks: Vec<Block>,
    pub function: Function,
    /// The slot of `self`, where it is used.
    pub this: Option<u32>,
    /// Names that are looked up among the globals.
    pub globals: std::collections::BTreeSet<String>,
}
