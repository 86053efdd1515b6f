// Package server is the node: it wires store, delivery, hub and api, opens the
// two listeners, and stops them in order.
//
// Rules that hold here:
//   - everything that can fail is done before anything is served;
//   - keys and certificates are made once, whole, private to the account that
//     runs the server; a damaged one is an error, never replaced in silence;
//   - the second door has a listener, a key and a certificate of its own;
//   - stopping tells agents and clients, is bounded, and flushes the store.
package server
