// Package hub holds the live links of all endpoints and says what the server
// sees of each.
//
// Rules that hold here:
//   - a link has a generation, rising for the life of the process, in a cluster over all
//     nodes; nothing is
//     removed or replaced but by its own generation;
//   - a link's reader only reads; what it read is handled in order by a bounded
//     queue of its own, so no endpoint waits for another;
//   - no lock is held across I/O, and locks are taken in the order watch
//     (of one endpoint), Hub, link;
//   - "connected" is never shown as online: a link counts once text and probes
//     went both ways on it, and stops counting when its ledger shows a gap;
//   - an identity that two living machines hold gets nothing on either link.
package hub
