//! Answers `GET /api/v1/usage`.

use super::super::usage::report::{Asked, Report, ReportError};
use super::{
    PER_PAGE, PER_PAGE_MAX, Refusal, document, not_loaded, number, parameters, refusal,
    store_status,
};
use plimsoll_gateway::{AdminAnswer, AdminRequest};
use plimsoll_registry::sources::Editor;
use plimsoll_registry::store::StoreErrorKind;

/// Answers a request.
pub(super) async fn answer(editor: &mut Editor, request: &AdminRequest) -> AdminAnswer {
    found(editor, request).await.unwrap_or_else(Refusal::answer)
}

/// A page as JSON, or all rows as CSV: a client of CSV does not look for pages, and would take the first
/// one for everything. A question with more rows than [`UsageQuery::ROWS_MAX`] is refused.
///
/// [`UsageQuery::ROWS_MAX`]: plimsoll_registry::usage::UsageQuery::ROWS_MAX
async fn found(editor: &mut Editor, request: &AdminRequest) -> Result<AdminAnswer, Refusal> {
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
    if is_csv && (page.is_some() || per_page.is_some()) {
        let message = "CSV has all rows and no pages";
        return Err(refusal(400, message, "leave out page and per_page, or ask for JSON"));
    }
    let page = number("page", page, 1, usize::MAX / PER_PAGE_MAX)?;
    let per_page = number("per_page", per_page, PER_PAGE, PER_PAGE_MAX)?;
    let asked = Asked { from, to, by, service, endpoint, key, method };
    let query = asked.query().map_err(|why| refusal(400, why, ""))?;
    let report = Report::of(editor, &query).await.map_err(|error| refused(&error))?;
    if is_csv {
        let body = report.csv().into_bytes();
        return Ok(AdminAnswer { status: 200, media_type: "text/csv; charset=utf-8", body });
    }
    let pages = report.pages(per_page);
    if page > pages {
        let message = format!("page {page} does not exist");
        return Err(refusal(404, message, format!("the last page is {pages}")));
    }
    Ok(document(200, &report.page(page, per_page)))
}

fn refused(error: &ReportError) -> Refusal {
    let (message, hint) = error.words();
    let status = match error {
        ReportError::Load(error) => return Refusal { message, hint, ..not_loaded(error) },
        ReportError::Store(error) if matches!(error.kind, StoreErrorKind::Missing) => 409,
        ReportError::Store(error) => store_status(error),
        ReportError::Currencies(_) => 500,
        ReportError::NoDatabase => 409,
        ReportError::Unknown(..) => 404,
    };
    refusal(status, message, hint)
}
