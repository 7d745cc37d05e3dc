//! What is stored or sent stays readable between neighbouring versions.

mod versions;
