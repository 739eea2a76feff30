//! uPlot 1.6.32 (MIT), the library that draws charts in HTML pages, as in `assets/uplot/`.
//!
//! Pages embed it, so that they are one file and need no network.

/// The script. It defines `uPlot` and contains no `</script>`.
pub const SCRIPT: &str = include_str!("../assets/uplot/uPlot.iife.min.js");
/// The style sheet. It contains no `</style>`.
pub const STYLE: &str = include_str!("../assets/uplot/uPlot.min.css");
/// The licence, which every page that embeds it must contain. It can stand in an HTML comment.
pub const LICENSE: &str = include_str!("../assets/uplot/LICENSE");

#[cfg(test)]
mod tests {
    #[test]
    fn the_assets_can_be_embedded() {
        assert!(!super::SCRIPT.contains("</script") && super::SCRIPT.contains("v1.6.32"));
        assert!(!super::LICENSE.contains("--") && super::LICENSE.contains("MIT"));
        assert!(!super::STYLE.contains("</style"));
    }
}
