//! The document for API Gateway.
