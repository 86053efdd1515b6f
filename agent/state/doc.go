// Package state is the endpoint's state directory: identity, configuration and
// policy, private to the service account (0700/0600), written whole or not at all.
package state
