//! Templates of rulesets (`nft/*.nft`): their parameters, and what is read from the filled text. PURE.

use thiserror::Error;

/// The template and its parameters do not match.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the ruleset's template: {0}")]
pub struct TemplateError(String);

/// Returns the template with every `{{name}}` replaced. The comment at its head, which explains the
/// parameters, is left out.
pub(super) fn fill(template: &str, parameters: &[(&str, String)]) -> Result<String, TemplateError> {
    let body_starts = template.find("\ntable ").ok_or_else(|| TemplateError("no table".to_owned()))? + 1;
    let mut text = template[body_starts..].to_owned();
    for (name, value) in parameters {
        let marker = format!("{{{{{name}}}}}");
        if !text.contains(&marker) {
            return Err(TemplateError(format!("has no parameter {marker}")));
        }
        text = text.replace(&marker, value);
    }
    match text.find("{{") {
        Some(at) => Err(TemplateError(text[at..].chars().take_while(|c| !c.is_whitespace()).collect())),
        None => Ok(text),
    }
}

/// Returns the text without comments, which are whole lines or follow a blank: what the kernel gets does not depend
/// on them. No text in quotes has a `#`.
pub(super) fn without_comments(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let code = lines.map(|line| line.split_once(" #").map_or(line, |(code, _)| code).trim_end());
    code.flat_map(|line| [line, "\n"]).collect()
}

/// Returns the names of the chains in a filled text, in which every statement has a line of its own.
pub(super) fn chains_of_text(text: &str) -> Vec<String> {
    let chains = text.lines().filter_map(|line| line.trim().strip_prefix("chain "));
    chains.filter_map(|rest| rest.split_whitespace().next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_is_filled_and_used() {
        assert!(fill("\ntable {{a}}", &[("b", String::new())]).is_err());
        assert!(fill("\ntable {{a}}", &[]).is_err());
        assert_eq!(fill("# head\ntable {{a}}", &[("a", "x".to_owned())]).unwrap(), "table x");
    }

    /// Otherwise a release that only explains more would make every chain and every fallback table anew.
    #[test]
    fn names_do_not_depend_on_comments() {
        let text = "table x {\n\t# why\n\tcounter a { }   # what\n\tchain c { }\n#\tchain off { }\n}\n";
        assert_eq!(without_comments(text), "table x {\n\tcounter a { }\n\tchain c { }\n}\n");
    }
}
