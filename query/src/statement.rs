//! What SQL is run: one query, or EXPLAIN of one. Everything else is refused before it is planned.
//!
//! A positive list, not a list of dangers: the statement must be a `SELECT`, `WITH`, `VALUES` or a set operation of
//! these, and may refer to plain table names only. Sizes are checked on tokens, before a tree is built that could be
//! too deep to walk or to drop.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{
    self, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Query, SetExpr, TableFactor, Visit,
    Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use crate::error::QueryError;
use crate::limits::{SQL_OPERATORS_MAX, SQL_PARENTHESES_MAX, SQL_RELATIONS_MAX, SQL_TOKENS_MAX};

#[cfg(test)]
mod tests;

const ONLY_QUERIES: &str = "only a query can be run here: SELECT, WITH, VALUES, their UNION, INTERSECT and EXCEPT, and \
                            EXPLAIN of these";

/// The statement's tree, if it is one query that may be run.
pub(crate) fn parse(sql: &str, sql_bytes_max: usize) -> Result<Statement, QueryError> {
    check_size(sql, sql_bytes_max)?;
    let tokens = Tokenizer::new(&GenericDialect {}, sql)
        .tokenize_with_location()
        .map_err(|error| QueryError::Invalid(format!("SQL error: {error}")))?;
    check_tokens(&tokens)?;

    let mut statements = DFParserBuilder::new(tokens)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|error| QueryError::Invalid(error.strip_backtrace()))?;
    let mut statement = match (statements.pop_front(), statements.is_empty()) {
        (Some(statement), true) => statement,
        (Some(_), false) => return Err(QueryError::Refused("one statement at a time".into())),
        (None, _) => return Err(QueryError::Invalid("the statement is empty".into())),
    };
    check_statement(&statement)?;
    name_zones(&mut statement);
    Ok(statement)
}

/// Is the text short enough to be read at all?
pub(crate) fn check_size(sql: &str, sql_bytes_max: usize) -> Result<(), QueryError> {
    if sql.len() <= sql_bytes_max {
        return Ok(());
    }
    Err(QueryError::Refused(format!("the statement has {} bytes; at most {sql_bytes_max} are read", sql.len())))
}

fn check_tokens(tokens: &[TokenWithSpan]) -> Result<(), QueryError> {
    let (mut count, mut operators, mut depth) = (0_usize, 0_usize, 0_usize);
    for token in tokens {
        match &token.token {
            Token::Whitespace(_) => continue,
            Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
            Token::RParen | Token::RBracket | Token::RBrace => depth = depth.saturating_sub(1),
            other if can_nest(other) => operators += 1,
            _ => {}
        }
        count += 1;
        if count > SQL_TOKENS_MAX {
            return Err(QueryError::Refused(format!(
                "the statement has more than {SQL_TOKENS_MAX} words, numbers and signs"
            )));
        }
        if operators > SQL_OPERATORS_MAX {
            return Err(QueryError::Refused(format!(
                "the statement has more than {SQL_OPERATORS_MAX} operators; use IN (…) for long lists of values"
            )));
        }
        if depth > SQL_PARENTHESES_MAX {
            return Err(QueryError::Refused(format!(
                "the statement has more than {SQL_PARENTHESES_MAX} parentheses within each other"
            )));
        }
    }
    Ok(())
}

/// Everything that is not known to be flat counts as nesting: a token that a later version of the parser learns to
/// chain is then counted too.
fn can_nest(token: &Token) -> bool {
    match token {
        Token::Word(word) => !matches!(
            word.keyword,
            Keyword::NoKeyword
                | Keyword::SELECT
                | Keyword::FROM
                | Keyword::WHERE
                | Keyword::AS
                | Keyword::NULL
                | Keyword::TRUE
                | Keyword::FALSE
                | Keyword::TIME
                | Keyword::ASC
                | Keyword::DESC
                | Keyword::BY
                | Keyword::WHEN
                | Keyword::THEN
        ),
        Token::EOF
        | Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_)
        | Token::Comma
        | Token::Period
        | Token::SemiColon => false,
        _ => true,
    }
}

fn check_statement(statement: &Statement) -> Result<(), QueryError> {
    match statement {
        Statement::Statement(statement) => match statement.as_ref() {
            ast::Statement::Query(query) => check_query(query),
            other => Err(refused_statement(&first_word(other))),
        },
        Statement::Explain(explain) => match explain.statement.as_ref() {
            Statement::Statement(statement) if matches!(statement.as_ref(), ast::Statement::Query(_)) => {
                check_statement(&explain.statement)
            }
            other => Err(refused_statement(&format!("EXPLAIN of {}", first_word(other)))),
        },
        other => Err(refused_statement(&first_word(other))),
    }
}

/// Makes calls of `timezone` of what is `AT TIME ZONE`, as PostgreSQL reads it.
fn name_zones(statement: &mut Statement) {
    match statement {
        Statement::Statement(statement) => {
            let _: ControlFlow<()> = ast::visit_expressions_mut(statement, |expr| {
                if let ast::Expr::AtTimeZone { timestamp, time_zone } = expr {
                    let args = [time_zone, timestamp].map(|arg| {
                        let null = ast::Expr::value(ast::Value::Null);
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(std::mem::replace(&mut **arg, null)))
                    });
                    *expr = ast::Expr::Function(call("timezone", args.to_vec()));
                }
                ControlFlow::Continue(())
            });
        }
        Statement::Explain(explain) => name_zones(&mut explain.statement),
        _ => {}
    }
}

fn call(name: &str, args: Vec<FunctionArg>) -> ast::Function {
    ast::Function {
        name: ast::ObjectName::from(vec![ast::Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    }
}

fn first_word(statement: &dyn std::fmt::Display) -> String {
    statement.to_string().split_whitespace().next().unwrap_or("this").chars().take(32).collect()
}

fn refused_statement(what: &str) -> QueryError {
    QueryError::Refused(format!("{what} is not run here; {ONLY_QUERIES}"))
}

fn check_query(query: &Query) -> Result<(), QueryError> {
    let mut checker = Checker::default();
    match query.visit(&mut checker) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// Walks the tree, refuses what is not plain, and counts the tables behind it.
#[derive(Default)]
struct Checker {
    /// Names of `WITH` queries by the address of their tree, until they have been counted.
    names: HashMap<*const Query, String>,
    /// Tables behind each `WITH` query.
    behind: HashMap<String, usize>,
    /// Tables counted so far, one entry per query that the walk is inside of.
    counts: Vec<usize>,
}

impl Checker {
    fn add(&mut self, relations: usize) -> ControlFlow<QueryError> {
        if let Some(count) = self.counts.last_mut() {
            *count += relations;
            if *count > SQL_RELATIONS_MAX {
                return refuse(format!(
                    "the statement refers to more than {SQL_RELATIONS_MAX} tables, uses of WITH queries included"
                ));
            }
        }
        ControlFlow::Continue(())
    }
}

fn refuse(what: impl Into<String>) -> ControlFlow<QueryError> {
    ControlFlow::Break(QueryError::Refused(what.into()))
}

impl Visitor for Checker {
    type Break = QueryError;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<QueryError> {
        if let Some(with) = &query.with {
            if with.recursive {
                return refuse("WITH RECURSIVE");
            }
            for table in &with.cte_tables {
                self.names.insert(&raw const *table.query, table.alias.name.value.to_lowercase());
            }
        }
        if !query.locks.is_empty()
            || query.for_clause.is_some()
            || query.settings.is_some()
            || query.format_clause.is_some()
            || !query.pipe_operators.is_empty()
        {
            return refuse("locks, FOR, SETTINGS, FORMAT and pipes are no part of a query here");
        }
        if matches!(
            *query.body,
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) | SetExpr::Table(_)
        ) {
            return ControlFlow::Break(refused_statement(&first_word(&query.body)));
        }
        self.counts.push(0);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<QueryError> {
        let count = self.counts.pop().unwrap_or(0);
        if let Some(name) = self.names.remove(&std::ptr::from_ref(query)) {
            let behind = self.behind.entry(name).or_insert(0);
            *behind = (*behind).max(count);
        }
        self.add(count)
    }

    fn pre_visit_select(&mut self, select: &ast::Select) -> ControlFlow<QueryError> {
        if select.into.is_some() {
            return refuse("SELECT INTO: readings are only ever added by gateways");
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_statement(&mut self, statement: &ast::Statement) -> ControlFlow<QueryError> {
        // The walk starts at a query, so that a statement here is one within it.
        ControlFlow::Break(refused_statement(&first_word(statement)))
    }

    fn pre_visit_relation(&mut self, relation: &ast::ObjectName) -> ControlFlow<QueryError> {
        let parts: Vec<String> =
            relation.0.iter().map(|part| part.to_string().trim_matches(['"', '`', '\'']).to_lowercase()).collect();
        if parts.iter().any(|part| part == "information_schema" || part == "pg_catalog") {
            return refuse("information_schema; the tables are readings, last_readings, conflicts and totals");
        }
        let name = parts.last().cloned().unwrap_or_default();
        let relations = if parts.len() == 1 { self.behind.get(&name).copied().unwrap_or(1).max(1) } else { 1 };
        self.add(relations)
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<QueryError> {
        match factor {
            TableFactor::Table {
                args: None, version: None, json_path: None, sample: None, partitions, name, ..
            } if partitions.is_empty() => {
                let quoted_as_text = name.0.iter().any(|part| {
                    part.as_ident().is_none_or(|ident| ident.quote_style.is_some_and(|quote| quote == '\''))
                });
                if quoted_as_text {
                    return refuse("files as tables; the tables are readings, last_readings, conflicts and totals");
                }
                ControlFlow::Continue(())
            }
            TableFactor::Table { args: Some(_), name, .. } => {
                let name: String = name.to_string().chars().take(64).collect();
                refuse(format!(
                    "table functions such as {name}(…); the tables are readings, last_readings, conflicts and totals"
                ))
            }
            TableFactor::Derived { .. } | TableFactor::NestedJoin { .. } => ControlFlow::Continue(()),
            _ => refuse("this kind of table; the tables are readings, last_readings, conflicts and totals"),
        }
    }
}
