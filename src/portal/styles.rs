//! The stylesheet of the pages, and the policy for pages that contain it.

use data_encoding::BASE64;
use http::HeaderValue;

use crate::secret::sha256;

use super::pages;

/// Stylesheet of the portal, followed by the operator's.
pub(super) struct Styles {
    pub(super) css: String,
    /// `Content-Security-Policy` of pages that contain the stylesheet. It allows no form and only frames of
    /// this origin.
    pub(super) inline_policy: HeaderValue,
}

impl Styles {
    pub(super) fn new(operator: &str) -> Styles {
        // Such text would end the style element of a page, so it stays out of the pages.
        let operator = if operator.contains("</") { "" } else { operator };
        let css = format!("{}\n{operator}", pages::STYLE);
        let hash = BASE64.encode(&sha256(css.as_bytes()));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{hash}'; img-src 'self'; form-action 'none'; \
             base-uri 'none'; frame-ancestors 'self'"
        );
        let strict = HeaderValue::from_static("default-src 'none'");
        Styles { css, inline_policy: HeaderValue::try_from(policy).unwrap_or(strict) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_the_stylesheet_by_its_hash() {
        let one = Styles::new(".a { color: red }");
        let policy = one.inline_policy.to_str().expect("ASCII");
        assert!(policy.contains(&BASE64.encode(&sha256(one.css.as_bytes()))), "{policy}");
        assert_ne!(one.inline_policy, Styles::new("").inline_policy);
        assert!(!Styles::new("</style><script>").css.contains("<script>"));
    }
}
