use forkpool::prelude::*;

#[derive(Worker)]
struct Hasher;

#[forkpool::methods(also(HashAll))]
impl Hasher {
    fn hash(&mut self, plaintext: String) -> Result<String, Failure> {
        Ok(plaintext)
    }

    fn hash(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn hash_all(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    #[expect(non_snake_case, reason = "it is another name of the same message")]
    fn hashAll(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

forkpool::boot!(Hasher);

fn main() {}
