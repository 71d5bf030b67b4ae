//! stub
/// stub
#[derive(Debug)]
pub struct Histograms;
impl Histograms {
    /// s
    pub fn new() -> Self {
        Self
    }
    /// s
    pub fn checkout_wait(&self, _: std::time::Duration) {}
    /// s
    pub fn query(&self, _: std::time::Duration) {}
    /// s
    pub fn transaction(&self, _: std::time::Duration) {}
}
