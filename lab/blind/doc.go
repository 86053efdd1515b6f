// Package blind puts one fault into a real system, at a moment that chance chooses and under
// load, and has the diagnosis name it from what the server holds: server, agents (guardian and
// worker) and proxies are the real ones, as processes.
//
// Rules that hold here:
//   - the diagnosis sees what the operator API gives, and nothing of what was put in;
//   - each run has an endpoint of its own, at a site of its own, behind a box of its own;
//   - chance is drawn from a seed, so that a run can be made again; time is the real one;
//   - a run whose fault did not strike, or whose endpoint was not well before, is an error of
//     the run and no success of the diagnosis.
package blind
