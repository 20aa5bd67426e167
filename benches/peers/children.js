// Calls to a forked process: for each line with a number, so many, and the seconds they took.
const { fork } = require("node:child_process");
const readline = require("node:readline");

const text = "0123456789abcdef".repeat(4);

if (process.argv[2] === "worker") {
  process.on("message", (message) => process.send(message));
} else {
  const worker = fork(__filename, ["worker"]);
  const call = () =>
    new Promise((resolve) => {
      worker.once("message", resolve);
      worker.send(text);
    });
  const main = async () => {
    for await (const line of readline.createInterface({ input: process.stdin })) {
      const began = process.hrtime.bigint();
      for (let count = Number(line); count > 0; count--) {
        if ((await call()) !== text) throw new Error("another text came back");
      }
      console.log(Number(process.hrtime.bigint() - began) / 1e9);
    }
    worker.disconnect();
  };
  main();
}
