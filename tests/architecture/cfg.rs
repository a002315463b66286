//! `cfg`, and what it depends on.

use proc_macro2::{TokenStream, TokenTree};
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, ExprLit, Lit, Meta, Token};

/// For which platform the sources are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Platform {
    Unix,
    Windows,
}

/// Whether the item with these attributes is not compiled on the platform, or only for tests.
pub(crate) fn excluded(attributes: &[Attribute], platform: Platform) -> bool {
    attributes
        .iter()
        .filter(|it| it.path().is_ident("cfg"))
        .any(|it| match it.parse_args::<Meta>() {
            Ok(condition) => holds(&condition, platform) == Some(false),
            Err(_) => false,
        })
}

/// `None`: it depends on something else, such as a feature.
fn holds(condition: &Meta, platform: Platform) -> Option<bool> {
    match condition {
        Meta::Path(it) if it.is_ident("test") => Some(false),
        Meta::Path(it) if it.is_ident("unix") => Some(platform == Platform::Unix),
        Meta::Path(it) if it.is_ident("windows") => Some(platform == Platform::Windows),
        Meta::NameValue(it) if it.path.is_ident("target_family") => match text(&it.value)?.as_str()
        {
            "unix" => Some(platform == Platform::Unix),
            "windows" => Some(platform == Platform::Windows),
            _ => Some(false),
        },
        Meta::NameValue(it) if it.path.is_ident("target_os") => {
            match (text(&it.value)? == "windows", platform) {
                (windows, Platform::Windows) => Some(windows),
                (true, Platform::Unix) => Some(false),
                (false, Platform::Unix) => None,
            }
        }
        Meta::List(it) => {
            let parts = it
                .parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
                .ok()?;
            let mut parts = parts.iter().map(|it| holds(it, platform));
            if it.path.is_ident("not") {
                Some(!parts.next()??)
            } else if it.path.is_ident("all") {
                parts
                    .try_fold(Some(true), |all, it| match it {
                        Some(false) => Err(Some(false)),
                        None => Ok(None),
                        Some(true) => Ok(all),
                    })
                    .unwrap_or_else(|it| it)
            } else if it.path.is_ident("any") {
                parts
                    .try_fold(Some(false), |any, it| match it {
                        Some(true) => Err(Some(true)),
                        None => Ok(None),
                        Some(false) => Ok(any),
                    })
                    .unwrap_or_else(|it| it)
            } else {
                None
            }
        }
        _ => None,
    }
}

fn text(value: &Expr) -> Option<String> {
    match value {
        Expr::Lit(ExprLit {
            lit: Lit::Str(it), ..
        }) => Some(it.value()),
        _ => None,
    }
}

/// The lines that ask for the platform: with `cfg`, `cfg_attr` or `cfg!`.
pub(crate) fn platform_lines(tokens: TokenStream) -> Vec<usize> {
    let mut lines = vec![];
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (i, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else {
            continue;
        };
        let before = |n: usize| i.checked_sub(n).map(|at| tokens[at].to_string());
        let name = match before(1).as_deref() {
            Some("!") => before(2),
            other => other.map(str::to_owned),
        };
        let condition: TokenStream = match name.as_deref() {
            Some("cfg") => group.stream(),
            // The rest is what is set then.
            Some("cfg_attr") => (group.stream().into_iter())
                .take_while(|it| it.to_string() != ",")
                .collect(),
            Some("cfg_select") => group.stream(),
            _ => TokenStream::new(),
        };
        if names_platform(condition) {
            lines.push(group.span_open().start().line);
        }
        lines.extend(platform_lines(group.stream()));
    }
    lines.dedup();
    lines
}

const PLATFORM_NAMES: [&str; 7] = [
    "unix",
    "windows",
    "target_os",
    "target_family",
    "target_vendor",
    "target_env",
    "target_abi",
];

fn names_platform(condition: TokenStream) -> bool {
    condition.into_iter().any(|it| match it {
        TokenTree::Ident(it) => PLATFORM_NAMES.iter().any(|name| it == name),
        TokenTree::Group(it) => names_platform(it.stream()),
        _ => false,
    })
}

/// The lines with the word `unsafe`.
pub(crate) fn unsafe_lines(tokens: TokenStream) -> Vec<usize> {
    let mut lines = vec![];
    for token in tokens {
        match token {
            TokenTree::Ident(it) if it == "unsafe" => lines.push(it.span().start().line),
            TokenTree::Group(it) => lines.extend(unsafe_lines(it.stream())),
            _ => {}
        }
    }
    lines
}
