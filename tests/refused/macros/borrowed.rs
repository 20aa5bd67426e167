use forkpool::prelude::*;

#[derive(Worker)]
struct Hasher;

#[forkpool::methods]
impl Hasher {
    fn hash(&mut self, plaintext: &mut String) -> Result<(), Failure> {
        plaintext.clear();
        Ok(())
    }

    fn verify(&mut self, crypted: Option<&str>) -> Result<bool, Failure> {
        Ok(crypted.is_none())
    }

    fn longest(&mut self, of: &'static str) -> Result<String, Failure> {
        Ok(of.to_owned())
    }

    fn first(&self, ctx: &mut WorkerContext<Self>, number: u32) -> Result<u32, Failure> {
        Ok(number)
    }

    fn pair(&self, (a, b): (u32, u32)) -> Result<u32, Failure> {
        Ok(a + b)
    }

    fn name_of(&self) -> Result<&str, Failure> {
        Ok("hasher")
    }
}

forkpool::boot!(Hasher);

fn main() {}
