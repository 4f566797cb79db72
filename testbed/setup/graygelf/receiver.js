// Receives GELF over UDP with graygelf and prints each whole message as one line of JSON.
// Usage: node receiver.js PORT
const { writeSync } = require('fs')
const Server = require('graygelf/server')

const server = new Server()
server.on('message', (message) => writeSync(1, JSON.stringify(message) + '\n'))
server.on('error', (error) => console.error(String(error)))
server.listen(Number(process.argv[2]), '127.0.0.1')
