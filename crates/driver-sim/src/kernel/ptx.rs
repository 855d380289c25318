//! Entries and their parameters, found in PTX text.

/// A kernel of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// Bytes of each parameter.
    pub(crate) params: Vec<usize>,
}

/// The entries of PTX text; `None` if it is not PTX. Source: *Parallel Thread Execution ISA*, `.entry` and `.param`.
pub(crate) fn entries(text: &str) -> Option<Vec<Entry>> {
    let text = without_comments(text);
    let tokens = tokens(&text);
    if !tokens.contains(&".version") {
        return None;
    }
    let starts = tokens.iter().enumerate().filter(|(_, token)| **token == ".entry").map(|(index, _)| index);
    starts.map(|start| entry(&tokens[start + 1..])).collect()
}

/// Reads what follows `.entry`: a name, and parameters in parentheses if there are any.
fn entry(tokens: &[&str]) -> Option<Entry> {
    let (name, rest) = tokens.split_first()?;
    let mut params = Vec::new();
    if rest.first() == Some(&"(") {
        let end = rest.iter().position(|token| *token == ")")?;
        for declaration in rest[1..end].split(|token| *token == ",").filter(|part| !part.is_empty()) {
            params.push(param(declaration)?);
        }
    }
    Some(Entry { name: name.to_string(), params })
}

/// Bytes of one declaration, as `.param .u64 .ptr .global .align 4 name` or `.param .align 8 .b8 name[16]`.
fn param(tokens: &[&str]) -> Option<usize> {
    let (first, rest) = tokens.split_first()?;
    let each = rest.iter().find_map(|token| TYPES.iter().find(|row| row.0 == *token))?.1;
    let count = match rest.iter().position(|token| *token == "[") {
        Some(at) => rest.get(at + 1)?.parse().ok()?,
        None => 1usize,
    };
    (*first == ".param").then(|| each.checked_mul(count)).flatten()
}

fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    for word in text.split_whitespace() {
        let mut rest = word;
        while let Some(at) = rest.find(|c| "(),[]{};".contains(c)) {
            if at > 0 {
                tokens.push(&rest[..at]);
            }
            // All of these are one byte.
            tokens.push(&rest[at..at + 1]);
            rest = &rest[at + 1..];
        }
        if !rest.is_empty() {
            tokens.push(rest);
        }
    }
    tokens
}

fn without_comments(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('/') {
        kept.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = match rest.as_bytes().get(1) {
            Some(b'/') => rest.find('\n').unwrap_or(rest.len()),
            Some(b'*') => rest.find("*/").map_or(rest.len(), |end| end + 2),
            _ => {
                kept.push('/');
                rest = &rest[1..];
                continue;
            }
        };
        kept.push(' ');
        rest = &rest[end..];
    }
    kept + rest
}

const TYPES: &[(&str, usize)] = &[
    (".b8", 1),
    (".u8", 1),
    (".s8", 1),
    (".b16", 2),
    (".u16", 2),
    (".s16", 2),
    (".f16", 2),
    (".b32", 4),
    (".u32", 4),
    (".s32", 4),
    (".f32", 4),
    (".b64", 8),
    (".u64", 8),
    (".s64", 8),
    (".f64", 8),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_parameters_are_found() {
        let text = "
            // .entry not_this(
            .version 7.0
            .target sm_50 /* .entry nor_this( */
            .address_size 64
            .visible .entry fill_u32(
                .param .u64 fill_u32_param_0, .param .u64 .ptr .global .align 4 count,
                .param .u32 value
            )
            { .reg .b32 %r<4>; ret; }
            .entry whole(.param .align 8 .b8 record[16])
            { ret; }
            .entry bare { ret; }";
        let found = entries(text).unwrap();
        let expected = [("fill_u32", vec![8, 8, 4]), ("whole", vec![16]), ("bare", vec![])];
        let expected = expected.map(|(name, params)| Entry { name: name.to_string(), params });
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_not_ptx_is_refused() {
        assert_eq!(entries("\u{7f}ELF and so on"), None);
        assert_eq!(entries(""), None);
        assert_eq!(entries(".version 7.0 .entry"), None);
        assert_eq!(entries(".version 7.0 .entry f(.param .u64 a"), None);
        assert_eq!(entries(".version 7.0 .entry f(.param .what a)"), None);
        assert_eq!(entries(".version 7.0"), Some(vec![]));
    }
}
