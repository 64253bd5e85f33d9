//! The README's program is the one that is compiled.

#[test]
fn the_embedding_example_is_the_compiled_one() {
    let (readme, example) = (include_str!("../../README.md"), include_str!("../../adapter-tokio/examples/embed.rs"));
    let program = example.split_once("\n\n").expect("a title, then the program").1;
    assert!(readme.contains(program), "README.md and adapter-tokio/examples/embed.rs differ");
}
