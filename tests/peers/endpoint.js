// A program that knows nothing of asyncipc, and takes part by name all the same.
//
//     node endpoint.js client PATH    says hello, asks for a sum, prints the replies, and leaves
//     node endpoint.js server PATH    answers "double", sends "news" to whoever asks
//
// On the wire each message is its length, 4 bytes big-endian, and then a JSON object.

const net = require("net");

function write(socket, envelope) {
  const json = Buffer.from(JSON.stringify(envelope));
  const header = Buffer.alloc(4);
  header.writeUInt32BE(json.length);
  socket.write(Buffer.concat([header, json]));
}

function read(socket, handle) {
  let data = Buffer.alloc(0);
  socket.on("data", (piece) => {
    data = Buffer.concat([data, piece]);
    while (data.length >= 4 && data.length >= 4 + data.readUInt32BE(0)) {
      const end = 4 + data.readUInt32BE(0);
      handle(JSON.parse(data.subarray(4, end)));
      data = data.subarray(end);
    }
  });
}

function client(path) {
  const socket = net.connect(path);
  const from = "node";
  read(socket, ({ reply, data, error }) => {
    console.log(`${reply}: ${error ?? JSON.stringify(data)}`);
    if (reply === 2) socket.end();
  });
  write(socket, { action: "hello", from, data: { text: "grüße 🦀" } });
  write(socket, { action: "sum", from, data: [1, 2, 3], id: 1 });
  write(socket, { action: "unknown", from, id: 2 });
}

function server(path) {
  const from = "node";
  const listening = net.createServer((socket) => {
    read(socket, ({ action, data, id }) => {
      if (action === "double") {
        write(socket, { action: "news", from, data: "asked" });
        write(socket, { action, from, data: 2 * data, reply: id });
      } else if (action === "end") {
        socket.end();
        listening.close();
      } else if (id !== undefined) {
        write(socket, { action, from, error: `no ${action} here`, reply: id });
      } else {
        console.log(`${action}: ${JSON.stringify(data)}`);
      }
    });
  });
  listening.listen(path);
}

const [role, path] = process.argv.slice(2);
({ client, server })[role](path);
