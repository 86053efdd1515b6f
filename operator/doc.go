// Package operator is the operator API as its users see it: the JSON types
// and a client. The server answers with these types, the command line and the
// lab ask with this client; the contract is written once.
package operator
