//! Conditions on fields, in the form that MongoDB made common, as a bitmap of rows that a scan reads.
//!
//! ```json
//! {"lang": "en", "year": {"$gte": 2020, "$lt": 2025}, "$or": [{"kind": {"$in": ["a", "b"]}}, {"$not": {"draft": true}}]}
//! ```
//!
//! Names side by side must all hold. A value alone means `$eq`; the others are `$ne`, `$in`, `$nin`, `$gt`, `$gte`, `$lt`,
//! `$lte` and `$exists`. Integers and floats compare as numbers, texts as Unicode; what is not of one kind is neither equal,
//! less nor greater. A row without the field passes only `$ne`, `$nin` and `"$exists": false`.

use crate::fields::{Column, Fields, Value};
use polmrs_core::{Error, Result};
use serde_json::Value as Json;
use std::cmp::Ordering;

/// A condition.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// All of these.
    All(Vec<Filter>),
    /// At least one of these.
    Any(Vec<Filter>),
    /// Not this.
    Not(Box<Filter>),
    /// A field's value.
    Field(String, Test),
}

/// A condition on one value.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// Equal to one of these.
    In(Vec<Json>),
    /// On this side of a value, or at it.
    Beside(Ordering, bool, Json),
    /// There.
    Exists,
}

/// Conditions inside conditions.
const MAX_DEPTH: usize = 64;

impl Filter {
    /// Reads a condition.
    ///
    /// # Errors
    /// [`Error::Usage`] that says what is no condition.
    pub fn parse(json: &Json) -> Result<Filter> {
        parse(json, 0)
    }

    /// A bit for each of `rows` rows.
    pub(crate) fn matches(&self, fields: &Fields, rows: usize) -> Vec<u64> {
        let combine = |parts: &[Filter], start: u64, with: fn(u64, u64) -> u64| {
            parts.iter().fold(vec![start; rows.div_ceil(64)], |mut bits, part| {
                for (bits, more) in bits.iter_mut().zip(part.matches(fields, rows)) {
                    *bits = with(*bits, more);
                }
                bits
            })
        };
        match self {
            Filter::All(parts) => combine(parts, u64::MAX, |a, b| a & b),
            Filter::Any(parts) => combine(parts, 0, |a, b| a | b),
            Filter::Not(part) => part.matches(fields, rows).into_iter().map(|bits| !bits).collect(),
            Filter::Field(name, test) => match fields.column(name) {
                Some(column) => test.matches(column, rows),
                None => vec![0; rows.div_ceil(64)],
            },
        }
    }
}

impl Test {
    fn matches(&self, column: &Column, rows: usize) -> Vec<u64> {
        match self {
            Test::Exists => pack(rows, |row| column.value(row) != Value::Missing),
            Test::In(wanted) => {
                let known = wanted.iter().filter_map(|json| column.known(json));
                let known: Vec<Value> = known.filter(|value| *value != Value::Missing).collect();
                match known.as_slice() {
                    [one] => pack(rows, |row| equal(column.value(row), *one)),
                    all => pack(rows, |row| all.iter().any(|one| equal(column.value(row), *one))),
                }
            }
            Test::Beside(side, or_equal, Json::String(bound)) => pack(rows, |row| match column.value(row) {
                Value::Text(number) => holds(Some(column.text(number).cmp(bound)), *side, *or_equal),
                _ => false,
            }),
            Test::Beside(side, or_equal, bound) => {
                let bound = column.known(bound).unwrap_or_default();
                pack(rows, |row| holds(order(column.value(row), bound), *side, *or_equal))
            }
        }
    }
}

fn holds(found: Option<Ordering>, side: Ordering, or_equal: bool) -> bool {
    found == Some(side) || (or_equal && found == Some(Ordering::Equal))
}

fn pack(rows: usize, holds: impl Fn(usize) -> bool) -> Vec<u64> {
    let word =
        |first: usize| (first..rows.min(first + 64)).fold(0, |word, row| word | u64::from(holds(row)) << (row - first));
    (0..rows).step_by(64).map(word).collect()
}

fn equal(a: Value, b: Value) -> bool {
    match (a, b) {
        (Value::Missing, _) => false,
        (Value::Int(_) | Value::Float(_), Value::Int(_) | Value::Float(_)) => order(a, b) == Some(Ordering::Equal),
        _ => a == b,
    }
}

/// The order of numbers; exact, also between integers and floats.
fn order(a: Value, b: Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(&b)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(&b),
        (Value::Int(a), Value::Float(b)) => order_mixed(a, b),
        (Value::Float(a), Value::Int(b)) => order_mixed(b, a).map(Ordering::reverse),
        _ => None,
    }
}

fn order_mixed(a: i64, b: f64) -> Option<Ordering> {
    if b >= 9_223_372_036_854_775_808.0 {
        return Some(Ordering::Less);
    }
    if b < -9_223_372_036_854_775_808.0 {
        return Some(Ordering::Greater);
    }
    let whole = b.trunc();
    Some(a.cmp(&(whole as i64)).then(0.0.partial_cmp(&(b - whole))?))
}

fn parse(json: &Json, depth: usize) -> Result<Filter> {
    let refuse = |what: String| Err(Error::Usage(format!("filter: {what}")));
    if depth > MAX_DEPTH {
        return refuse(format!("conditions are nested more than {MAX_DEPTH} deep"));
    }
    let Json::Object(map) = json else { return refuse(format!("{json} is not an object of names and conditions")) };
    let mut all = Vec::new();
    for (name, value) in map {
        match (name.as_str(), value) {
            ("$and" | "$or", Json::Array(parts)) => {
                let parts = parts.iter().map(|part| parse(part, depth + 1)).collect::<Result<_>>()?;
                all.push(if name == "$and" { Filter::All(parts) } else { Filter::Any(parts) });
            }
            ("$and" | "$or", other) => return refuse(format!("{name}: {other} is not a list of conditions")),
            ("$not", part) => all.push(Filter::Not(Box::new(parse(part, depth + 1)?))),
            (name, _) if name.starts_with('$') => {
                return refuse(format!("'{name}' is not one of $and, $or, $not, or a field's name"));
            }
            (name, Json::Object(tests)) => {
                for (operator, value) in tests {
                    all.push(parse_test(name, operator, value)?);
                }
            }
            (name, value) => all.push(parse_test(name, "$eq", value)?),
        }
    }
    Ok(if all.len() == 1 { all.remove(0) } else { Filter::All(all) })
}

fn parse_test(name: &str, operator: &str, value: &Json) -> Result<Filter> {
    let refuse = |rule: &str| Err(Error::Usage(format!("filter: {name}.{operator}: {value} {rule}")));
    let is_scalar = |value: &Json| !value.is_array() && !value.is_object();
    let field = |test| Filter::Field(name.to_owned(), test);
    let not = |filter| Filter::Not(Box::new(filter));
    Ok(match (operator, value) {
        ("$eq" | "$ne", value) if is_scalar(value) => {
            let equal = field(Test::In(vec![value.clone()]));
            if operator == "$eq" { equal } else { not(equal) }
        }
        ("$eq" | "$ne", _) => return refuse("is not a string, a number, a boolean or null"),
        ("$in" | "$nin", Json::Array(values)) if values.iter().all(is_scalar) => {
            let among = field(Test::In(values.clone()));
            if operator == "$in" { among } else { not(among) }
        }
        ("$in" | "$nin", _) => return refuse("is not a list of strings, numbers, booleans or nulls"),
        ("$gt" | "$gte" | "$lt" | "$lte", Json::Number(_) | Json::String(_)) => {
            let side = if operator.starts_with("$g") { Ordering::Greater } else { Ordering::Less };
            field(Test::Beside(side, operator.ends_with('e'), value.clone()))
        }
        ("$gt" | "$gte" | "$lt" | "$lte", _) => return refuse("is neither a number nor a string"),
        ("$exists", Json::Bool(true)) => field(Test::Exists),
        ("$exists", Json::Bool(false)) => not(field(Test::Exists)),
        ("$exists", _) => return refuse("is not a boolean"),
        _ => {
            let known = "$eq, $ne, $in, $nin, $gt, $gte, $lt, $lte, $exists";
            return Err(Error::Usage(format!("filter: {name}: '{operator}' is not one of {known}")));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(filter: &Json) -> Vec<usize> {
        let rows = [
            json!({"lang": "en", "year": 2020, "score": 0.5}),
            json!({"lang": "de", "year": 2024.0, "draft": true}),
            json!({"lang": "fr", "year": null}),
            json!({}),
            json!({"lang": "en", "year": 2025, "big": 9_007_199_254_740_993i64}),
        ];
        let maps: Vec<_> = rows.iter().map(|row| row.as_object().unwrap().clone()).collect();
        Fields::check(&maps).unwrap();
        let mut fields = Fields::default();
        fields.push(&maps, 0);
        let bits = Filter::parse(filter).unwrap().matches(&fields, rows.len());
        (0..rows.len()).filter(|row| bits[0] >> row & 1 == 1).collect()
    }

    #[test]
    fn each_condition_means_what_it_says() {
        for (filter, rows) in [
            (json!({}), vec![0, 1, 2, 3, 4]),
            (json!({"lang": "en"}), vec![0, 4]),
            (json!({"lang": "xx"}), vec![]),
            (json!({"nothing": 1}), vec![]),
            (json!({"lang": {"$ne": "en"}}), vec![1, 2, 3]),
            (json!({"lang": {"$in": ["de", "fr", 7]}}), vec![1, 2]),
            (json!({"lang": {"$nin": ["de", "fr"]}}), vec![0, 3, 4]),
            (json!({"lang": {"$gt": "de"}}), vec![0, 2, 4]),
            (json!({"year": 2024}), vec![1]),
            (json!({"year": null}), vec![2]),
            (json!({"year": {"$gte": 2020, "$lt": 2025}}), vec![0, 1]),
            (json!({"year": {"$gt": 2019.5}}), vec![0, 1, 4]),
            (json!({"year": {"$exists": false}}), vec![3]),
            (json!({"draft": true}), vec![1]),
            (json!({"draft": 1}), vec![]),
            (json!({"big": 9_007_199_254_740_992.0}), vec![]),
            (json!({"big": {"$gt": 9_007_199_254_740_992.0}}), vec![4]),
            (json!({"$or": [{"lang": "de"}, {"score": 0.5}]}), vec![0, 1]),
            (json!({"$and": [{"lang": "en"}, {"$not": {"year": 2020}}]}), vec![4]),
            (json!({"$or": []}), vec![]),
        ] {
            assert_eq!(found(&filter), rows, "{filter}");
        }
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for (filter, message) in [
            (json!([]), "[] is not an object"),
            (json!({"$nor": []}), "'$nor' is not one of $and, $or, $not"),
            (json!({"$or": {}}), "$or: {} is not a list"),
            (json!({"a": {"$near": 1}}), "a: '$near' is not one of $eq"),
            (json!({"a": [1]}), "a.$eq: [1] is not a string"),
            (json!({"a": {"$in": 1}}), "a.$in: 1 is not a list"),
            (json!({"a": {"$lt": true}}), "a.$lt: true is neither"),
            (json!({"a": {"$exists": 1}}), "a.$exists: 1 is not a boolean"),
        ] {
            let error = Filter::parse(&filter).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        let deep = (0..100).fold(json!({}), |inner, _| json!({"$not": inner}));
        assert!(Filter::parse(&deep).is_err());
    }
}
