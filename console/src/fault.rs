//! Faults of the API: a status and `{"error": "one lower-case sentence"}`. 4xx: the request; 5xx: the server.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use domain::ports::PortError;
use domain::system_error::without_numbers;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

#[derive(Debug)]
pub(crate) struct ApiFault {
    status: StatusCode,
    message: String,
}

pub(crate) type ApiResult<T> = Result<T, ApiFault>;

impl ApiFault {
    /// 400: the request cannot be parsed.
    pub(crate) fn bad_request(message: impl Into<String>) -> ApiFault {
        ApiFault { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    /// 404: the path, job or run does not exist.
    pub(crate) fn not_found(message: impl Into<String>) -> ApiFault {
        ApiFault { status: StatusCode::NOT_FOUND, message: message.into() }
    }

    /// 422: the request was parsed, but its job has faults.
    pub(crate) fn unprocessable(message: impl Into<String>) -> ApiFault {
        ApiFault { status: StatusCode::UNPROCESSABLE_ENTITY, message: message.into() }
    }

    /// 409: refused in the current state; the same request may succeed later.
    pub(crate) fn conflict(message: impl Into<String>) -> ApiFault {
        ApiFault { status: StatusCode::CONFLICT, message: message.into() }
    }

    /// 500: a failure of the server.
    pub(crate) fn internal(message: impl Into<String>) -> ApiFault {
        ApiFault { status: StatusCode::INTERNAL_SERVER_ERROR, message: message.into() }
    }

    /// The fault as a line of an answer whose status was sent before.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        json!({ "error": without_numbers(&self.message), "status": self.status.as_u16() })
    }

    /// 401: no token, or a wrong one.
    pub(crate) fn unauthorized() -> ApiFault {
        let message = "token missing or invalid; send `Authorization: Bearer` with the token in the state directory";
        ApiFault { status: StatusCode::UNAUTHORIZED, message: message.to_owned() }
    }
}

impl From<PortError> for ApiFault {
    fn from(error: PortError) -> ApiFault {
        let status = match &error {
            PortError::Retry(_) => StatusCode::SERVICE_UNAVAILABLE,
            PortError::Permanent(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        ApiFault { status, message: error.to_string() }
    }
}

impl From<services::Error> for ApiFault {
    fn from(error: services::Error) -> ApiFault {
        use services::Error::{BadJob, Conflict, NoSuchJob, NoSuchRun, Port, Refused, Unstorable};
        let message = error.to_string();
        match error {
            Port(error) => error.into(),
            NoSuchJob(_) | NoSuchRun(_) => ApiFault::not_found(message),
            BadJob { .. } | Unstorable(_) => ApiFault::unprocessable(message),
            Refused(_) | Conflict(_) => ApiFault::conflict(message),
        }
    }
}

impl From<JsonRejection> for ApiFault {
    fn from(rejection: JsonRejection) -> ApiFault {
        ApiFault { status: rejection.status(), message: rejection.body_text() }
    }
}

impl From<QueryRejection> for ApiFault {
    fn from(rejection: QueryRejection) -> ApiFault {
        ApiFault { status: rejection.status(), message: rejection.body_text() }
    }
}

impl IntoResponse for ApiFault {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(status = self.status.as_u16(), "request failed: {}", self.message);
        }
        (self.status, axum::Json(json!({ "error": without_numbers(&self.message) }))).into_response()
    }
}

/// A JSON body; its faults have the form of all other faults.
pub(crate) struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiFault;

    async fn from_request(request: Request, state: &S) -> Result<Json<T>, ApiFault> {
        let axum::Json(read) = axum::Json::from_request(request, state).await?;
        Ok(Json(read))
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// Query parameters; their faults have the form of all other faults.
pub(crate) struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiFault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Query<T>, ApiFault> {
        let axum::extract::Query(read) = axum::extract::Query::from_request_parts(parts, state).await?;
        Ok(Query(read))
    }
}

pub(crate) async fn no_such_path(uri: Uri) -> ApiFault {
    ApiFault::not_found(format!("no such path {}", uri.path()))
}

pub(crate) async fn no_such_method(method: Method, uri: Uri) -> ApiFault {
    let message = format!("method {method} is not allowed for {}", uri.path());
    ApiFault { status: StatusCode::METHOD_NOT_ALLOWED, message }
}
