// Package task runs the commands of an endpoint, each at most once.
//
// Rules that hold here:
//   - an id is on disk before it is acknowledged, and "started" is on disk before
//     the process exists: whatever dies when, no command runs twice;
//   - a result is kept, with its output, until the server says it is stored;
//   - a job's output is bounded, and reading it never holds the job up;
//   - the end of a job is the end of its whole process tree (package tree);
//   - a journal that can't be written refuses commands and says why; one that can't
//     be read is set aside and kept, never reset in silence.
package task
