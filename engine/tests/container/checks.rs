//! What several tests look at.

use shoal_engine::container::OutputFrame;
use shoal_engine::container::OutputStream;

use futures::StreamExt;

/// Reads a stream to its end, as text.
pub(crate) async fn read_all(output: OutputStream) -> String {
    let frames: Vec<OutputFrame> = output.map(|frame| frame.expect("a frame")).collect().await;
    let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.data.to_vec()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads a stream until it holds a text; gives what was read.
pub(crate) async fn read_until(output: &mut OutputStream, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        let frame = tokio::time::timeout(std::time::Duration::from_secs(10), output.next()).await;
        let Ok(Some(Ok(frame))) = frame else { panic!("no {text:?} in {seen:?}") };
        seen.push_str(&String::from_utf8_lossy(&frame.data));
    }
    seen
}
