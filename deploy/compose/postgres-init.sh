#!/bin/bash
# Runs once, when the database is made: the owner, who only migrates, and one login for each process with the
# rights of its group role (sql/roles.sql) and no more. psql quotes the passwords, whatever is in them.
set -euo pipefail

psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username postgres --dbname rackgateway <<'SQL'
\getenv owner_password OWNER_DB_PASSWORD
\getenv admin_password ADMIN_DB_PASSWORD
\getenv proxy_password PROXY_DB_PASSWORD

create role rgw_proxy nologin;
create role rgw_admin nologin;
create role rgw_owner       login password :'owner_password';
create role rgw_admin_login login password :'admin_password' in role rgw_admin;
create role rgw_proxy_login login password :'proxy_password' in role rgw_proxy;

alter database rackgateway owner to rgw_owner;
revoke all on database rackgateway from public;
grant connect on database rackgateway to rgw_admin, rgw_proxy;
revoke create on schema public from public;
SQL
