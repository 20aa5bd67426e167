fn main() {
    use forkpool::prelude::*;

    #[derive(Worker)]
    struct Hasher;

    #[forkpool::methods]
    impl Hasher {
        fn hash(&mut self, plaintext: &str) -> Result<String, Failure> {
            Ok(plaintext.to_owned())
        }
    }
}
