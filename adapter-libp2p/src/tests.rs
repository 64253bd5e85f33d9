use super::*;

#[tokio::test]
async fn a_refusal_is_told_as_one() {
    let (libp2p, _) = Libp2p::bind([1; 32], &[]).await.unwrap();
    let (gone, _) = Libp2p::bind([2; 32], &["127.0.0.1:0".parse().unwrap()]).await.unwrap();
    let at = gone.local().dialable().next().unwrap();
    gone.shutdown().await;
    let error = libp2p.dial(&at).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error:?}");
}
