// A text service in Node.js that knows nothing of the guard.
//
//   PORT=8000 node examples/sidecar/server.js
//   guard proxy --upstream http://127.0.0.1:8000 --monitor monitor --field text
//
//   curl localhost:8080/shout -H 'content-type: application/json' -d '{"text": "a good film"}'
"use strict";

const http = require("node:http");

const server = http.createServer(async (request, response) => {
  if (request.method !== "POST" || request.url !== "/shout") {
    response.writeHead(404).end();
    return;
  }
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  let text;
  try {
    text = JSON.parse(Buffer.concat(chunks)).text.toUpperCase();
  } catch {
    response.writeHead(400).end();
    return;
  }
  // A word at a time, as a model would answer.
  response.writeHead(200, { "content-type": "text/plain; charset=utf-8" });
  for (const word of text.split(" ")) {
    response.write(word + "\n");
    await new Promise((resolve) => setImmediate(resolve));
  }
  response.end();
});

server.listen(Number(process.env.PORT ?? 8000), "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
process.on("SIGTERM", () => server.close());
