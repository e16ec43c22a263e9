package sql

import (
	"context"
	_ "embed" // for the lists
	"fmt"
	"strings"

	"github.com/jmoiron/sqlx"
)

// ProxyRights and AdminRights are what the two roles may do after roles.sql, as Rights tells it. A test makes them
// from a database (go test ./sql -update), and `admin doctor` holds a running one to them.
var (
	//go:embed rights/rgw_proxy.txt
	ProxyRights string
	//go:embed rights/rgw_admin.txt
	AdminRights string
)

const selectRights = `
select thing, may from (
select 'schema rgw' as thing, string_agg(p, ', ' order by p) as may
  from unnest(array['usage', 'create']) p where has_schema_privilege($1, 'rgw', p)
  having count(*) > 0
union all
select 'table ' || c.relname, string_agg(p, ', ' order by p)
  from pg_class c, unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) p
  where c.relnamespace = 'rgw'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f') and has_table_privilege($1, c.oid, p)
  group by 1
union all
select 'column ' || c.relname || '.' || a.attname, string_agg(p, ', ' order by p)
  from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0, unnest(array['select', 'insert', 'update', 'references']) p
  where c.relnamespace = 'rgw'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')
    and has_column_privilege($1, c.oid, a.attnum, p) and not has_table_privilege($1, c.oid, p)
  group by 1
union all
select 'sequence ' || c.relname, string_agg(p, ', ' order by p)
  from pg_class c, unnest(array['usage', 'select', 'update']) p
  where c.relnamespace = 'rgw'::regnamespace and c.relkind = 'S' and has_sequence_privilege($1, c.oid, p)
  group by 1
union all
select 'function ' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')', 'execute'
  from pg_proc p where p.pronamespace = 'rgw'::regnamespace and has_function_privilege($1, p.oid, 'execute')
union all
select 'database', string_agg(p, ', ' order by p)
  from unnest(array['create']) p where has_database_privilege($1, current_database(), p) having count(*) > 0
) r(thing, may)
order by thing collate "C"`

// Rights tells what a role may do with each thing in the schema, including what everybody may: a line for the thing, and
// below it, indented by two, what.
func Rights(ctx context.Context, db sqlx.QueryerContext, role string) (string, error) {
	var rows []struct {
		Thing string `db:"thing"`
		May   string `db:"may"`
	}
	if err := sqlx.SelectContext(ctx, db, &rows, selectRights, role); err != nil {
		return "", fmt.Errorf("what %s may do: %w", role, err)
	}
	var b strings.Builder
	for i, row := range rows {
		if i == 0 || row.Thing != rows[i-1].Thing {
			fmt.Fprintln(&b, row.Thing)
		}
		fmt.Fprintln(&b, " ", row.May)
	}
	return b.String(), nil
}
