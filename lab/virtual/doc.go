// Package virtual runs a whole server, proxy and agent (guardian and worker) in
// one process, in memory and in virtual time (testing/synctest): a day of a
// healthy, idle pair takes seconds. Its code is all in tests.
package virtual
