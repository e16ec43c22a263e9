package doctor

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/postgres"
	schema "rackgateway/sql"
)

func databaseChecks() []check {
	return []check{
		{
			id: "database-tls", group: "Database", title: "Connections to PostgreSQL are encrypted, and its certificate is verified",
			remedy:  "set sslmode=verify-full and sslrootcert in DATABASE_URL of every process",
			examine: examineDatabaseTLS,
		},
		{
			id: "database-version", group: "Database", title: "PostgreSQL is a version that is still mended",
			remedy:  "upgrade PostgreSQL: versions end five years after they came",
			examine: examineVersion,
		},
		{
			id: "database-encryption", group: "Database", title: "The database's disk is encrypted",
			remedy:  "look at the volume or the instance itself: no statement of SQL tells",
			examine: examineEncryption,
		},
		{
			id: "database-durable", group: "Database", title: "What PostgreSQL says is durable is",
			remedy:  "switch fsync and full_page_writes on",
			examine: examineDurability,
		},
		{
			id: "database-backups", group: "Database", title: "The database is backed up, all the time",
			remedy:  "archive the write-ahead log (archive_mode) or keep a standby, and try a restore: see docs/operations.md",
			examine: examineBackups,
		},
		{
			id: "database-rights", group: "Database", title: "Each process's role may do what sql/roles.sql lists, and nothing else",
			remedy:  "run admin migrate, which sets the rights anew, and give each process a login of its own in its group role alone",
			examine: examineRights,
		},
		{
			id: "database-schema", group: "Database", title: "The schema is that of this version",
			remedy:  "run admin migrate",
			examine: examineSchema,
		},
		{
			id: "database-listen", group: "Database", title: "Changes of access are heard (LISTEN works)",
			remedy:  "connect to PostgreSQL itself, or to a pooler in session mode",
			examine: examineListen,
		},
		{
			id: "database-partitions", group: "Database", title: "The coming months have their partitions",
			remedy:  "run admin migrate, and see in the logs why no process could make them",
			examine: examinePartitions,
		},
		{
			id: "owner-apart", group: "Database", title: "What serves people is not the schema's owner",
			remedy:  "set DATABASE_URL to a login in the role rgw_admin, and ADMIN_DATABASE_URL, where it is needed, to the owner",
			examine: examineOwner,
		},
	}
}

const selectOwnTLS = `select ssl, coalesce(version, '') as version from pg_stat_ssl where pid = pg_backend_pid()`

func examineDatabaseTLS(ctx context.Context, d *Doctor, _ *sight) finding {
	var row struct {
		SSL     bool   `db:"ssl"`
		Version string `db:"version"`
	}
	if err := d.DB.GetContext(ctx, &row, selectOwnTLS); err != nil {
		return cannotAsk(err)
	}
	mode := ""
	if at, err := url.Parse(d.Config.Database.URL.Reveal()); err == nil {
		mode = at.Query().Get("sslmode")
		if host := cmp.Or(at.Query().Get("host"), at.Hostname()); strings.HasPrefix(host, "/") {
			return pass("by a socket of this machine, which leaves no machine")
		}
	}
	switch {
	case !row.SSL:
		return fail("this connection is not encrypted")
	case mode != "verify-full" && mode != "verify-ca":
		return fail("this connection is encrypted (%s), and the server's certificate is not verified: sslmode is %q", row.Version, mode)
	}
	return pass("%s, with sslmode=%s", row.Version, mode)
}

const selectVersion = `select current_setting('server_version_num')::integer`

// ends is when a major version is no longer mended: 14 in November 2026, and each later one a year after the one before
// (PostgreSQL's versioning policy).
func ends(major int) time.Time {
	return time.Date(2026+major-14, time.November, 15, 0, 0, 0, 0, time.UTC)
}

func examineVersion(ctx context.Context, d *Doctor, _ *sight) finding {
	var version int
	if err := d.DB.GetContext(ctx, &version, selectVersion); err != nil {
		return cannotAsk(err)
	}
	major := version / 10000
	name := strconv.Itoa(major) + "." + strconv.Itoa(version%10000)
	switch {
	case major < 14:
		return fail("it is %s, and 14 or newer is needed", name)
	case d.Now().After(ends(major)):
		return fail("it is %s, which is not mended any more since %s", name, ends(major).Format("January 2006"))
	}
	return pass("it is %s, mended until %s", name, ends(major).Format("January 2006"))
}

// selectStorage finds the traces that managed databases leave. None of them tells about the disk.
const selectStorage = `select coalesce((select string_agg(name, ', ') from pg_settings where name in ('rds.extensions', 'azure.extensions', 'cloudsql.iam_authentication')), '')`

func examineEncryption(ctx context.Context, d *Doctor, _ *sight) finding {
	var managed string
	if err := d.DB.GetContext(ctx, &managed, selectStorage); err != nil {
		return cannotAsk(err)
	}
	if managed != "" {
		return unknown("it is a managed database (%s), which does not tell by SQL whether its storage is encrypted", managed)
	}
	return unknown("PostgreSQL does not know what its disk is")
}

func examineDurability(ctx context.Context, d *Doctor, _ *sight) finding {
	if err := postgres.CheckDurability(ctx, d.DB); err != nil {
		return fail("%v", err)
	}
	return pass("fsync and full_page_writes are on")
}

const selectBackups = `
select current_setting('archive_mode') <> 'off' as archives,
       a.last_archived_time as archived_at,
       coalesce(a.last_failed_time > coalesce(a.last_archived_time, '-infinity'), false) as failing,
       (select count(*) from pg_stat_get_wal_senders()) as standbys,
       clock_timestamp() as now
from pg_stat_archiver a`

// archiveAge is how old the newest archived piece of the log may be. A busy database archives all the time, a quiet one
// when archive_timeout says so.
const archiveAge = 24 * time.Hour

func examineBackups(ctx context.Context, d *Doctor, _ *sight) finding {
	var row struct {
		Archives   bool         `db:"archives"`
		ArchivedAt sql.NullTime `db:"archived_at"`
		Failing    bool         `db:"failing"`
		Standbys   int          `db:"standbys"`
		Now        time.Time    `db:"now"`
	}
	if err := d.DB.GetContext(ctx, &row, selectBackups); err != nil {
		return cannotAsk(err)
	}
	switch {
	case row.Archives && row.Failing:
		return fail("archiving the write-ahead log fails")
	case row.Archives && row.ArchivedAt.Valid && row.Now.Sub(row.ArchivedAt.Time) < archiveAge:
		return pass("the write-ahead log was last archived at %s", row.ArchivedAt.Time.UTC().Format(time.RFC3339))
	case row.Archives && row.ArchivedAt.Valid:
		return fail("the write-ahead log was last archived at %s", row.ArchivedAt.Time.UTC().Format(time.RFC3339))
	case row.Standbys > 0:
		return unknown("%d standby servers follow it, which is no backup against mistakes; whether there is one cannot be seen from here", row.Standbys)
	}
	return unknown("it archives nothing that could be seen; whether it is dumped, or its disk copied, cannot be seen from here")
}

const selectLogins = `
select a.usename as login, a.application_name as process,
       r.rolsuper as super, r.rolcreaterole or r.rolcreatedb or r.rolreplication or r.rolbypassrls as special,
       pg_has_role(r.oid, 'rgw_proxy', 'usage') as proxy, pg_has_role(r.oid, 'rgw_admin', 'usage') as admin,
       pg_has_role(r.oid, (select nspowner from pg_namespace where nspname = 'rgw'), 'usage') as owner
from (select distinct usename, application_name from pg_stat_activity
      where datname = current_database() and application_name in ('rackgateway proxy', 'rackgateway admin', 'rackgateway admin command')) a
join pg_roles r on r.rolname = a.usename
order by 1, 2`

type loginRow struct {
	Login   string `db:"login"`
	Process string `db:"process"`
	Super   bool   `db:"super"`
	Special bool   `db:"special"`
	Proxy   bool   `db:"proxy"`
	Admin   bool   `db:"admin"`
	Owner   bool   `db:"owner"`
}

func examineRights(ctx context.Context, d *Doctor, _ *sight) finding {
	var wrong []string
	for role, want := range map[string]string{"rgw_proxy": schema.ProxyRights, "rgw_admin": schema.AdminRights} {
		has, err := schema.Rights(ctx, d.DB, role)
		if postgres.SQLState(err) == "42704" { // undefined_object
			return fail("there is no role %s", role)
		}
		if err != nil {
			return cannotAsk(err)
		}
		if more, less := differ(has, want); more+less != "" {
			if more != "" {
				wrong = append(wrong, role+" may also "+more)
			}
			if less != "" {
				wrong = append(wrong, role+" may not "+less)
			}
		}
	}
	var logins []loginRow
	if err := sqlx.SelectContext(ctx, d.DB, &logins, selectLogins); err != nil {
		return cannotAsk(err)
	}
	proxies := 0
	for _, l := range logins {
		isProxy := l.Process == "rackgateway proxy"
		switch {
		case l.Super:
			wrong = append(wrong, fmt.Sprintf("%s, as which %s is connected, is a superuser", l.Login, l.Process))
		case l.Owner:
			wrong = append(wrong, fmt.Sprintf("%s, as which %s is connected, owns the schema", l.Login, l.Process))
		case l.Special:
			wrong = append(wrong, fmt.Sprintf("%s, as which %s is connected, may make roles or databases, copy the server, or see past row security", l.Login, l.Process))
		case isProxy && l.Admin:
			wrong = append(wrong, fmt.Sprintf("%s, as which a proxy is connected, has admin's rights too", l.Login))
		case !isProxy && l.Proxy:
			wrong = append(wrong, fmt.Sprintf("%s, as which %s is connected, has the proxy's rights too", l.Login, l.Process))
		}
		if isProxy {
			proxies++
		}
	}
	switch {
	case len(wrong) > 0:
		slices.Sort(wrong)
		return fail("%s", strings.Join(wrong, "; "))
	case proxies == 0:
		return pass("the roles may do what is listed; no proxy is connected whose login could be looked at")
	}
	return pass("the roles may do what is listed, and so may the logins of those who are connected")
}

// differ compares two lists of rights, of the form "thing\n  rights\n", and tells in a few words what the first has
// more and less.
func differ(has, want string) (more, less string) {
	parse := func(text string) map[string]string {
		rights := make(map[string]string)
		thing := ""
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if right, ok := strings.CutPrefix(line, "  "); ok {
				rights[thing] = right
			} else {
				thing = line
			}
		}
		return rights
	}
	one, other := parse(has), parse(want)
	beyond := func(a, b map[string]string) string {
		var list []string
		for thing, rights := range a {
			var extra []string
			for right := range strings.SplitSeq(rights, ", ") {
				if !slices.Contains(strings.Split(b[thing], ", "), right) {
					extra = append(extra, right)
				}
			}
			if len(extra) > 0 {
				list = append(list, strings.Join(extra, ", ")+" on "+thing)
			}
		}
		slices.Sort(list)
		if len(list) > 3 {
			list = append(list[:3], fmt.Sprintf("%d things more", len(list)-3))
		}
		return strings.Join(list, ", ")
	}
	return beyond(one, other), beyond(other, one)
}

func examineSchema(ctx context.Context, d *Doctor, _ *sight) finding {
	steps, err := postgres.MigrationStatus(ctx, d.DB)
	if err != nil {
		return cannotAsk(err)
	}
	missing := 0
	for _, step := range steps {
		if step.AppliedAt == nil {
			missing++
		}
	}
	if missing > 0 {
		return fail("it lacks %d of %d steps", missing, len(steps))
	}
	return pass("it has all %d steps", len(steps))
}

func examineListen(ctx context.Context, d *Doctor, _ *sight) finding {
	feed := postgres.NewFeed(d.DB, nil, postgres.FeedOptions{})
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = feed.Run(ctx) // ends with the context
	}()
	err := feed.Probe(ctx)
	cancel()
	<-ended
	if err != nil {
		return fail("%v", err)
	}
	return pass("an announcement came back")
}

// selectPartitions looks at the size of the net, since admin's role reads the record through its parent alone.
const selectPartitions = `
select count(*) filter (where to_regclass('rgw.audit_events_' || to_char(first + make_interval(months => i), 'YYYYMM')) is null) as missing,
       pg_relation_size('rgw.audit_events_overflow') > 0 as overflow
from (select date_trunc('month', now() at time zone 'UTC')) f(first), generate_series(0, 3) i`

func examinePartitions(ctx context.Context, d *Doctor, _ *sight) finding {
	var row struct {
		Missing  int  `db:"missing"`
		Overflow bool `db:"overflow"`
	}
	if err := d.DB.GetContext(ctx, &row, selectPartitions); err != nil {
		return cannotAsk(err)
	}
	switch {
	case row.Missing > 0:
		return fail("%d of the coming months have none, so that their events would go into the net", row.Missing)
	case row.Overflow:
		return fail("events are in the net, for which there was no partition")
	}
	return pass("they are there, three months ahead at least")
}

const selectOwner = `
select pg_has_role(current_user, n.nspowner, 'usage') or (select rolsuper from pg_roles where rolname = current_user)
from pg_namespace n where n.nspname = 'rgw'`

func examineOwner(ctx context.Context, d *Doctor, _ *sight) finding {
	var owner bool
	err := d.DB.GetContext(ctx, &owner, selectOwner)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return fail("there is no schema yet")
	case err != nil:
		return cannotAsk(err)
	case owner:
		return fail("DATABASE_URL is the schema's owner, who could take rows of the record away")
	}
	return pass("DATABASE_URL is a login without the owner's rights")
}
