package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Rules of a cluster, whose nodes share one PostgreSQL:
//   - a node lives as long as its lease, by the database's clock; its id is that of the lease;
//   - who finds a lease over ends it, and with it the node's right to write: no transaction
//     of that id is stored any more, so what it held can be given to others;
//   - each transaction leaves the topics it changed in the database, so a node that was told
//     nothing finds them by one query. None is missed: those of transactions that may still
//     be under way are looked at again.

// ErrLeaseLost: this node's lease ended; the others have taken over what it held.
var ErrLeaseLost = errors.New("this node's lease has ended: the database was away from it for too long")

// Kinds of topics: what changed, of one agent, command or rollout.
const (
	TopicCommands   = "c" // commands of an agent
	TopicDirectives = "d" // directives of an agent
	TopicAgent      = "a" // an operator's word on an agent: quarantine, removal, resolution of duplicates
	TopicView       = "v" // what a node sees of an agent
	TopicJob        = "j" // a job
)

func topic(kind, id string) string { return kind + "/" + id }

// Node is a node of a cluster.
type Node struct {
	ID    string
	Name  string
	Since time.Time
}

// NodeOptions make a store that of a node.
type NodeOptions struct {
	Name  string        // for people
	Lease time.Duration // how long it counts as living without a renewal
}

// Nodes is what the nodes of a cluster have in common. Only the store of a node can do it:
// see [PostgresOptions].
type Nodes interface {
	// Node is this node's id now; "": it is none.
	Node() string
	// Join makes this node one of those that live, under a new id. same is what all must
	// agree in; the error names the node that differs.
	Join(ctx context.Context, same string) error
	// Leave ends this node's lease by itself.
	Leave(ctx context.Context) error
	// Beat renews the lease, ends those that are over, and takes the lead where no living
	// node has it. ErrLeaseLost: this node was ended; it may join anew.
	Beat(ctx context.Context) (Beat, error)
	// Changes gives the topics that other nodes have changed since the last call's next; at
	// first after is 0, and nothing is given.
	Changes(ctx context.Context, after int64) (topics []string, next int64, err error)
	// Orphaned lists agents with claims of nodes that live no more.
	Orphaned(ctx context.Context) ([]string, error)
	// NextGeneration is above all that any node was given before.
	NextGeneration(ctx context.Context) (uint64, error)
	// SaveViews replaces what this node sees of agents, by id; "" is nothing.
	SaveViews(ctx context.Context, seen map[string]string) error
	// Views lists what other nodes see of agents, or of all if none is named.
	Views(ctx context.Context, agents ...string) ([]View, error)
	// Lives tells whether a node's lease was not ended yet. Once it was, it stays so.
	Lives(ctx context.Context, id string) (bool, error)
	// UseToken takes an agent's token: fresh is false if any node has before.
	UseToken(ctx context.Context, agent, id string, until time.Time) (fresh bool, err error)
	// TakeDirectives marks those as delivered that have not ended, and gives them.
	TakeDirectives(ctx context.Context, ids []string, at time.Time) (taken []string, err error)
	// CountOwed counts, by agent, the commands that have not been acknowledged, of one agent or of all ("").
	CountOwed(ctx context.Context, agent string) (map[string]int, error)
}

// Beat is what a node learns when it renews its lease.
type Beat struct {
	Leads  bool
	Living []Node // this one too
	Ended  []Node // by this very beat
}

// View is what a node sees of an agent.
type View struct {
	Agent, Node, Seen string
}

// keepChanges is how long changes are kept: no node is behind for longer than a lease.
const keepChanges = time.Minute

// keepWriters is how long a writer is let in that is no node: one that starts.
const keepWriters = time.Hour

// clock is the database's own time, in microseconds: that at which the transaction began, so
// that an index serves.
const clock = `(extract(epoch FROM now()) * 1000000)::bigint`

// OpenNode opens a PostgreSQL as [OpenPostgres] does, for one node of several. The error is
// ErrInUse if a server works on it that is no node.
func OpenNode(url string, o PostgresOptions, n NodeOptions) (Store, Nodes, error) {
	p, readers, err := newPostgres(url, o)
	if err != nil {
		return nil, nil, err
	}
	p.node = &n
	if err := p.open(readers); err != nil {
		return nil, nil, p.named(errors.Join(err, p.close()))
	}
	d := newDatabase(p, p.log, o.Told)
	return d, &nodes{d, p}, nil
}

// nodes is a node's part of its database.
type nodes struct {
	*database
	p *postgres
}

var _ Nodes = (*nodes)(nil)

func (n *nodes) Node() string { return *n.p.id.Load() }

func (n *nodes) Join(ctx context.Context, same string) error {
	was := n.Node()
	// In the writer's turn: what waits for it is written under the id that it was meant for, or not at all.
	if err := n.group.alone(ctx, func() error { n.p.rename(); return nil }); err != nil {
		return err
	}
	return n.group.do(ctx, func(tx *txn) error {
		// Its lease of before is nobody's any more, and need not be waited for.
		if _, err := tx.Exec(`DELETE FROM nodes WHERE id = ?`, was); err != nil {
			return err
		}
		if err := forget(tx, was); err != nil {
			return err
		}
		all, err := living(tx, `same <> ?1 AND until > `+clock, same)
		if err != nil {
			return err
		}
		if len(all) > 0 {
			return fmt.Errorf("node %s has another server id, keys or shared directory: give each node a copy of the same state directory's keys and the same shared directory, see docs/operations.md", all[0].Name)
		}
		_, err = tx.Exec(`INSERT INTO nodes (id, name, same, since, until) VALUES (?1, ?2, ?3, `+clock+`, `+clock+` + ?4)`,
			n.Node(), n.p.node.Name, same, n.p.node.Lease.Microseconds())
		return err
	})
}

func living(tx *txn, where string, args ...any) (all []Node, err error) {
	rows, err := tx.Query(`SELECT id, name, since FROM nodes WHERE `+where+` ORDER BY since, id`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var one Node
		var since int64
		if err := rows.Scan(&one.ID, &one.Name, &since); err != nil {
			return nil, err
		}
		one.Since = timeOf(since)
		all = append(all, one)
	}
	return all, rows.Err()
}

// forget ends a node: nothing of it is stored any more.
func forget(tx *txn, id string) error {
	// A transaction of it that is under way is waited for.
	for _, q := range []string{`DELETE FROM writer WHERE owner = ?`, `DELETE FROM views WHERE node = ?`} {
		if _, err := tx.Exec(q, id); err != nil {
			return err
		}
	}
	return nil
}

func (n *nodes) Leave(ctx context.Context) error {
	return n.group.do(ctx, func(tx *txn) error {
		_, err := tx.Exec(`DELETE FROM nodes WHERE id = ?`, n.Node())
		if err == nil {
			_, err = tx.Exec(`DELETE FROM views WHERE node = ?`, n.Node())
		}
		return err
	})
}

func (n *nodes) Beat(ctx context.Context) (b Beat, err error) {
	err = n.group.do(ctx, func(tx *txn) error {
		b = Beat{}
		err := one(tx.Exec(`UPDATE nodes SET until = `+clock+` + ?2 WHERE id = ?1`, n.Node(), n.p.node.Lease.Microseconds()))
		if errors.Is(err, ErrNotFound) {
			return ErrLeaseLost
		}
		if err != nil {
			return err
		}
		over, err := living(tx, `until < `+clock)
		if err != nil {
			return err
		}
		for _, o := range over {
			switch err := one(tx.Exec(`DELETE FROM nodes WHERE id = ? AND until < `+clock, o.ID)); {
			case errors.Is(err, ErrNotFound): // renewed, or ended by another
				continue
			case err != nil:
				return err
			}
			if err := forget(tx, o.ID); err != nil {
				return err
			}
			b.Ended = append(b.Ended, o)
		}
		if _, err := tx.Exec(`UPDATE leader SET node = ?1 WHERE node <> ?1 AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.id = leader.node)`, n.Node()); err != nil {
			return err
		}
		var leader string
		if err := tx.QueryRow(`SELECT node FROM leader`).Scan(&leader); err != nil {
			return err
		}
		if b.Leads = leader == n.Node(); b.Leads {
			if _, err := tx.Exec(`DELETE FROM changes WHERE at < `+clock+` - ?`, keepChanges.Microseconds()); err != nil {
				return err
			}
			if _, err := tx.Exec(`DELETE FROM used_tokens WHERE until < ` + clock); err != nil {
				return err
			}
			// Of nodes that went in order, or never joined.
			if _, err := tx.Exec(`DELETE FROM writer WHERE owner NOT IN (SELECT id FROM nodes) AND since < `+clock+` - ?`, keepWriters.Microseconds()); err != nil {
				return err
			}
		}
		b.Living, err = living(tx, `until > `+clock)
		return err
	})
	return b, err
}

func (n *nodes) Changes(ctx context.Context, after int64) (topics []string, next int64, err error) {
	type change struct {
		next   int64
		topics []string
	}
	// Both in one statement: they are of one moment.
	all, err := list(ctx, n.database, func(r row) (c change, err error) { err = r.Scan(&c.next, &c.topics); return c, err },
		`SELECT s.x, c.topics FROM (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS x) s
		LEFT JOIN changes c ON c.xid >= CASE WHEN ?1 = 0 THEN 9223372036854775807 ELSE CAST(?1 AS BIGINT) END AND c.node <> ?2`, after, n.Node())
	if err != nil {
		return nil, after, err
	}
	for _, c := range all {
		next = c.next
		topics = append(topics, c.topics...)
	}
	slices.Sort(topics)
	return slices.Compact(topics), next, nil
}

func (n *nodes) Orphaned(ctx context.Context) ([]string, error) {
	return list(ctx, n.database, func(r row) (id string, err error) { err = r.Scan(&id); return id, err },
		`SELECT DISTINCT agent FROM commands WHERE owner <> '' AND owner NOT IN (SELECT id FROM nodes)`)
}

func (n *nodes) NextGeneration(ctx context.Context) (uint64, error) {
	var g int64
	err := n.group.doSingle(ctx, &single{query: `SELECT nextval('link_generation')`, scan: func(r row) error { return r.Scan(&g) }},
		func(tx *txn) error { return tx.QueryRow(`SELECT nextval('link_generation')`).Scan(&g) })
	return uint64(g), err
}

func (n *nodes) SaveViews(ctx context.Context, seen map[string]string) error {
	ids := make([]string, 0, len(seen))
	for id := range seen {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	var gone, agents, facts []string
	for _, id := range ids {
		if seen[id] == "" {
			gone = append(gone, id)
			continue
		}
		agents, facts = append(agents, id), append(facts, seen[id])
	}
	return n.group.do(ctx, func(tx *txn) error {
		node := n.Node()
		if len(gone) > 0 {
			if _, err := tx.Exec(`DELETE FROM views WHERE node = ?1 AND agent = ANY (CAST(?2 AS TEXT[]))`, node, gone); err != nil {
				return err
			}
		}
		if len(agents) > 0 {
			if _, err := tx.Exec(`INSERT INTO views (agent, node, seen) SELECT s.agent, ?1, s.seen FROM unnest(CAST(?2 AS TEXT[]), CAST(?3 AS TEXT[])) AS s (agent, seen)
				ON CONFLICT (agent, node) DO UPDATE SET seen = excluded.seen`, node, agents, facts); err != nil {
				return err
			}
		}
		for _, id := range ids {
			tx.touch(TopicView, id)
		}
		return nil
	})
}

func (n *nodes) Lives(ctx context.Context, id string) (bool, error) {
	count, err := first(ctx, n.database, func(r row) (n int, err error) { err = r.Scan(&n); return n, err }, `SELECT count(*) FROM nodes WHERE id = ?`, id)
	return count > 0, err
}

func (n *nodes) Views(ctx context.Context, agents ...string) ([]View, error) {
	scan := func(r row) (v View, err error) { err = r.Scan(&v.Agent, &v.Node, &v.Seen); return v, err }
	if len(agents) == 0 {
		return list(ctx, n.database, scan, `SELECT agent, node, seen FROM views WHERE node <> ?`, n.Node())
	}
	return list(ctx, n.database, scan, `SELECT agent, node, seen FROM views WHERE agent = ANY (CAST(? AS TEXT[])) AND node <> ?`, agents, n.Node())
}

func (n *nodes) UseToken(ctx context.Context, agent, id string, until time.Time) (fresh bool, err error) {
	usual := &single{query: `INSERT INTO used_tokens (agent, id, until) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING RETURNING true`,
		args: []any{agent, id, micros(until)}, scan: func(r row) error { return r.Scan(&fresh) }}
	err = n.group.doSingle(ctx, usual, func(tx *txn) error {
		fresh = false
		err := usual.scan(tx.QueryRow(usual.query, usual.args...))
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	return fresh, err
}

func (n *nodes) TakeDirectives(ctx context.Context, ids []string, at time.Time) (taken []string, err error) {
	err = n.group.do(ctx, func(tx *txn) error {
		taken = nil
		for _, id := range ids {
			err := one(tx.Exec(`UPDATE directives SET delivered_at = ? WHERE id = ? AND ended_at IS NULL`, micros(at), id))
			switch {
			case err == nil:
				taken = append(taken, id)
			case !errors.Is(err, ErrNotFound):
				return err
			}
		}
		return nil
	})
	return taken, err
}

func (n *nodes) CountOwed(ctx context.Context, agent string) (map[string]int, error) {
	type owed struct {
		agent string
		n     int
	}
	scan := func(r row) (o owed, err error) { err = r.Scan(&o.agent, &o.n); return o, err }
	const those = `SELECT agent, count(*) FROM commands WHERE state IN ('pending', 'running') AND acked_at IS NULL`
	query, args := those+` GROUP BY agent`, []any(nil)
	if agent != "" {
		query, args = those+` AND agent = ? GROUP BY agent`, []any{agent}
	}
	all, err := list(ctx, n.database, scan, query, args...)
	out := map[string]int{}
	for _, o := range all {
		out[o.agent] = o.n
	}
	return out, err
}

// rename gives this process another id, and has it connect anew under that. In the writer's turn.
func (p *postgres) rename() {
	id := rand.Text()
	p.id.Store(&id)
	p.claim = false
	p.forget()
}

// prepareNode makes a fresh connection a node's writer: beside those of other nodes.
func (p *postgres) prepareNode(ctx context.Context, conn *pgx.Conn) error {
	if err := p.migrateNode(ctx, conn); err != nil {
		return err
	}
	if err := lock(ctx, conn, true); err != nil {
		return err
	}
	if p.claim {
		// Its row is locked by a transaction of the connection before, if one is still under way.
		var n int64
		err := conn.QueryRow(ctx, `SELECT n FROM writer WHERE owner = $1 FOR UPDATE`, *p.id.Load()).Scan(&n)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrLeaseLost
		}
		return err
	}
	// What servers before left: of a node that lives there is a row.
	if _, err := conn.Exec(ctx, `DELETE FROM writer WHERE owner IN ('', $1)`, movedOwner); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, `INSERT INTO writer (owner, n) VALUES ($1, 0)`, *p.id.Load())
	p.claim = err == nil
	return err
}

// migrateNode brings the schema up to date; only while no other node is at work.
func (p *postgres) migrateNode(ctx context.Context, conn *pgx.Conn) error {
	version, err := schema(ctx, conn)
	if err != nil {
		return err
	}
	if known := firstPostgres - 1 + len(steps("migrations/postgres", firstPostgres)); version > known {
		return newerSchema(version, known)
	} else if version == known {
		return nil
	}
	if err := lock(ctx, conn, false); err != nil {
		if errors.Is(err, ErrInUse) {
			err = fmt.Errorf("%w: nodes of an older version, perhaps; the schema has to change: end them all first", err)
		}
		return err
	}
	if err := p.migrate(ctx, conn); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `SELECT pg_advisory_unlock($1, hashtext(current_schema()::text))`, int32(lockSpace))
	return err
}

func (p *postgres) announce(tx *txn) ([]string, error) {
	if p.node == nil || len(tx.topics) == 0 {
		return nil, nil
	}
	slices.Sort(tx.topics)
	topics := slices.DeleteFunc(slices.Compact(tx.topics), func(t string) bool { return t == "" })
	if len(topics) == 0 {
		return nil, nil
	}
	_, err := tx.Exec(`INSERT INTO changes (node, topics) VALUES (?, ?)`, *p.id.Load(), topics)
	return topics, err
}

func (p *postgres) lockRow() string {
	if p.node == nil {
		return ""
	}
	return ` FOR NO KEY UPDATE`
}
