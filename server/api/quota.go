package api

import (
	"fmt"
	"time"

	"gururmm/internal/quota"
)

// QuotaRequests is what is bounded of each agent and each operator token, as a
// [quota.Book] names it; the hub has what else is.
const QuotaRequests = "requests"

// requestsBurst is how many seconds' worth of requests may come at once.
const requestsBurst = 10

// RequestQuota allows so many requests a second; 0 or less: any number.
func RequestQuota(each float64) quota.Limit {
	return quota.Limit{Rate: each, Burst: max(1, int(requestsBurst*each))}
}

// tooFast refuses what exceeds a quota, until wait is over.
type tooFast struct {
	what string
	wait time.Duration
}

func (e *tooFast) Error() string {
	return fmt.Sprintf("too many %s in a short time; come back in %d s", e.what, quota.Seconds(e.wait))
}

// spend takes n of what is done, or refuses.
func spend(a *quota.Account, what string, n int) error {
	if wait := a.Try(what, n); wait > 0 {
		return &tooFast{what, wait}
	}
	return nil
}
