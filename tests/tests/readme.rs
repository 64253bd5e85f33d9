//! The README's program is the one that is compiled.

#[test]
fn the_embedding_example_is_the_compiled_one() {
    let (readme, example) = (include_str!("../../README.md"), include_str!("../../adapter-tokio/examples/embed.rs"));
    let program = example.split_once("\n\n").expect("a title, then the program").1;
    assert!(readme.contains(program), "README.md and adapter-tokio/examples/embed.rs differ");
}

/// Without whitespace and the commas that only its layout brings.
fn bare(text: &str) -> String {
    let text: String = text.split_whitespace().collect();
    [",)", ",}", ",]"].iter().fold(text, |text, tail| text.replace(tail, &tail[1..]))
}

#[test]
fn the_transport_on_one_page_is_the_one_that_is_put_through_the_suite() {
    let (readme, example) = (include_str!("../../adapter-tokio/README.md"), include_str!("../../adapter-tokio/examples/unix.rs"));
    let page = readme.split_once("```rust\n").and_then(|(_, rest)| rest.split_once("```")).expect("a page of code").0;
    assert!(bare(example).contains(&bare(page)), "adapter-tokio/README.md and its example unix.rs differ");
}
