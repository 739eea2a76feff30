//! Answers `GET /api/v1/usage`.

use super::super::usage::report::{self, Asked, Report};
use super::{
    PER_PAGE, PER_PAGE_MAX, Refusal, document, load_words, not_loaded, number, parameters, refusal,
    store_status,
};
use plimsoll_gateway::{AdminAnswer, AdminRequest};
use plimsoll_registry::sources::Editor;
use serde_json::Value;

/// Answers a request.
pub(super) async fn answer(editor: &mut Editor, request: &AdminRequest) -> AdminAnswer {
    match found(editor, request).await {
        Err(refusal) => refusal.answer(),
        Ok((page, true)) => {
            let body = report::csv(&page).into_bytes();
            AdminAnswer { status: 200, media_type: "text/csv; charset=utf-8", body }
        }
        Ok((page, false)) => document(200, &page),
    }
}

/// A page, and whether it is wanted as CSV.
async fn found(editor: &mut Editor, request: &AdminRequest) -> Result<(Value, bool), Refusal> {
    let [from, to, by, service, endpoint, key, method, format, page, per_page] = parameters(
        request,
        ["from", "to", "by", "service", "endpoint", "key", "method", "format", "page", "per_page"],
    )?;
    let is_csv = match format {
        None => request.accept.contains("text/csv"),
        Some("csv") => true,
        Some("json") => false,
        Some(_) => return Err(refusal(400, "format must be json or csv", "")),
    };
    let page = number("page", page, 1, usize::MAX / PER_PAGE_MAX)?;
    let per_page = number("per_page", per_page, PER_PAGE, PER_PAGE_MAX)?;
    let asked = Asked { from, to, by, service, endpoint, key, method };
    let query = asked.query().map_err(|why| refusal(400, why, ""))?;
    let report = Report::of(editor, &query).await.map_err(|error| refused(&error))?;
    let pages = report.pages(per_page);
    if page > pages {
        let message = format!("page {page} does not exist");
        return Err(refusal(404, message, format!("the last page is {pages}")));
    }
    Ok((report.page(page, per_page), is_csv))
}

fn refused(error: &report::ReportError) -> Refusal {
    match error {
        report::ReportError::Load(error) => {
            let (message, hint) = load_words(error);
            Refusal { message, hint, ..not_loaded(error) }
        }
        report::ReportError::Store(error) => {
            refusal(store_status(error), error.to_string(), error.hint())
        }
        report::ReportError::Currencies(why) => refusal(500, why.as_str(), ""),
    }
}
