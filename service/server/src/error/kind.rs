//! The types of errors, in one table: a stable word, its status, and what it means. `docs/http.md` lists them.

/// A type of error. Its word never changes its meaning.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ErrorType {
    /// The last segment of the `type` URI reference.
    pub(crate) word: &'static str,
    pub(crate) status: u16,
    /// What happened, the same for every error of this type.
    pub(crate) title: &'static str,
}

impl ErrorType {
    /// The `type` of a problem document: a URI reference.
    pub(crate) fn uri(&self) -> String {
        format!("/problems/{}", self.word)
    }

    /// Returns whether the same request may succeed later, so that a response says after how long.
    pub(crate) fn tries_again(&self) -> bool {
        matches!(self.status, 429 | 503)
    }
}

macro_rules! error_types {
    ($($name:ident $status:literal $word:literal $title:literal,)+) => {
        $(pub(crate) static $name: ErrorType = ErrorType { word: $word, status: $status, title: $title };)+

        /// All of them, by status.
        #[cfg(test)]
        pub(crate) const ALL: &[&ErrorType] = &[$(&$name),+];
    };
}

error_types! {
    INVALID_BODY 400 "invalid-body" "The body cannot be read",
    INVALID_SQL 400 "invalid-sql" "The SQL is not valid",
    SIGN_IN_REQUIRED 401 "sign-in-required" "A valid token is needed",
    FORBIDDEN 403 "forbidden" "This is not allowed",
    ORG_CLOSED 403 "org-closed" "The organisation is closed",
    NOT_FOUND 404 "not-found" "There is nothing here",
    METHOD_NOT_ALLOWED 405 "method-not-allowed" "The path does not take this method",
    NOT_ACCEPTABLE 406 "not-acceptable" "No media type in Accept is available",
    TIMEOUT 408 "timeout" "The request took too long",
    CONFLICT 409 "conflict" "It conflicts with what is there",
    TOO_LARGE 413 "too-large" "The body is too large",
    UNSUPPORTED_MEDIA_TYPE 415 "unsupported-media-type" "The body's media type is not known",
    INVALID_PARAMETER 422 "invalid-parameter" "A parameter is not valid",
    QUOTA 422 "quota" "The request needs more than one request may use",
    RATE_LIMITED 429 "rate-limited" "There are too many requests",
    INTERNAL 500 "internal" "The server has a defect",
    UNAVAILABLE 503 "unavailable" "The server cannot do this at the moment",
}
