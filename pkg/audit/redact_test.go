package audit_test

import (
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/audit"
)

func TestRedactCommand(t *testing.T) {
	for _, c := range [][2]string{
		// What stays.
		{``, ``},
		{`rake db:migrate`, `rake db:migrate`},
		{`bash -c "cd /app && ls -la | grep 'x y'"`, `bash -c "cd /app && ls -la | grep 'x y'"`},
		{`RAILS_ENV=production rails c`, `RAILS_ENV=production rails c`},
		{`PWD=/app KEYBOARD=de PASSENGER=1 cmd`, `PWD=/app KEYBOARD=de PASSENGER=1 cmd`},
		{`curl https://example.com:8080/a@b?x=1`, `curl https://example.com:8080/a@b?x=1`},
		{`echo "token"`, `echo "token"`},
		{`rails generate token`, `rails generate token`},
		{`tar -p -xf a.tar`, `tar -p -xf a.tar`},
		{`psql -p 5433 -U app`, `psql -p 5433 -U app`},
		{`ssh-keygen -l`, `ssh-keygen -l`},
		{`grep -r password .`, `grep -r password .`},
		{`mysql -p`, `mysql -p`},
		{`cmd --password --verbose`, `cmd --password --verbose`},
		{`cmd --no-color x`, `cmd --no-color x`},

		// Assignments.
		{`FOO_TOKEN=abc cmd`, `FOO_TOKEN=*** cmd`},
		{`export X_PASSWORD=abc; env`, `export X_PASSWORD=***; env`},
		{`A=1 SECRET_KEY_BASE='a b c' B=2 cmd`, `A=1 SECRET_KEY_BASE=*** B=2 cmd`},
		{`DB_DSN="user:pw@tcp(db)/x" cmd`, `DB_DSN=*** cmd`},
		{`apiKey=abc githubToken=def cmd`, `apiKey=*** githubToken=*** cmd`},
		{`AWS_SECRET_ACCESS_KEY=abc/def+ghi= aws s3 ls`, `AWS_SECRET_ACCESS_KEY=*** aws s3 ls`},
		{`PRIVATE_KEY=$(cat key.pem) cmd`, `PRIVATE_KEY=***$(cat key.pem) cmd`},
		{`X_CREDENTIALS=a\ b cmd`, `X_CREDENTIALS=*** cmd`},
		{`TOKEN=ab"c d"'e f' cmd`, `TOKEN=*** cmd`},
		{`PASS+=abc cmd`, `PASS+=*** cmd`},
		{`sh -c "FOO_TOKEN=abc cmd"`, `sh -c "FOO_TOKEN=*** cmd"`},
		{`sh -c "FOO_TOKEN=abc" && ls`, `sh -c "FOO_TOKEN=***" && ls`},
		{`sh -c 'FOO_TOKEN="a b" cmd' && ls`, `sh -c 'FOO_TOKEN=*** cmd' && ls`},
		{`sh -c "FOO_TOKEN=\"a b\" cmd" && ls`, `sh -c "FOO_TOKEN=*** cmd" && ls`},
		{`sh -c "export A_SECRET='x y'; B_SECRET=z"`, `sh -c "export A_SECRET=***; B_SECRET=***"`},
		{`TOKEN="unterminated a b c`, `TOKEN=***`},
		{`MYSQL_PWD=abc mysql`, `MYSQL_PWD=*** mysql`},
		{`env TOKEN= cmd`, `env TOKEN= cmd`},

		// Flags.
		{`cmd --password=abc -v`, `cmd --password=*** -v`},
		{`cmd --password abc -v`, `cmd --password *** -v`},
		{`cmd --db-password 'a b' -v`, `cmd --db-password *** -v`},
		{`cmd --api-key=abc --auth-token def`, `cmd --api-key=*** --auth-token ***`},
		{`java -Dx.password=abc -jar a.jar`, `java -Dx.password=*** -jar a.jar`},
		{`openssl rsa -passin pass:abc`, `openssl rsa -passin pass:***`},
		{`mysql -uroot -pabc db`, `mysql -uroot -p*** db`},
		{`mysqldump -u root -p'a b' db`, `mysqldump -u root -p*** db`},
		{`sh -c "mysql -pabc"`, `sh -c "mysql -p***"`},
		{`/usr/bin/mysql -pabc`, `/usr/bin/mysql -p***`},
		{`mkdir -pabc`, `mkdir -pabc`},
		{`redis-cli -h r -a abc ping`, `redis-cli -h r -a *** ping`},
		{`sshpass -p abc ssh x`, `sshpass -p *** ssh x`},
		{`curl -u user:abc https://x`, `curl -u *** https://x`},
		{`curl --user user:abc https://x`, `curl --user *** https://x`},

		// URLs.
		{`psql postgres://u:p@h:5432/db?x=1`, `psql postgres://***:***@h:5432/db?x=1`},
		{`git clone https://ghp_abc@github.com/x/y`, `git clone https://***@github.com/x/y`},
		{`DATABASE_URL=postgres://u:p@h/db rake`, `DATABASE_URL=postgres://***:***@h/db rake`},
		{`psql "postgres://u:p@h/db" -c 'x'`, `psql "postgres://***:***@h/db" -c 'x'`},
		{`psql postgres://u:p/w?d#@h/db`, `psql postgres://***:***@h/db`},
		{`curl "https://x/y?token=abc&page=2"`, `curl "https://x/y?token=***&page=2"`},

		// Headers and JSON.
		{`curl -H "Authorization: Bearer abc def" https://x`, `curl -H "Authorization: ***" https://x`},
		{`curl -H Authorization: Bearer abc https://x`, `curl -H Authorization: *** *** https://x`},
		{`curl -H 'X-Api-Key: abc' https://x`, `curl -H 'X-Api-Key: ***' https://x`},
		{`curl -d '{"user":"ana","password":"a b","n":1}' https://x`, `curl -d '{"user":"ana","password":***,"n":1}' https://x`},
		{`curl -d "{\"password\": \"a b\", \"n\":1}"`, `curl -d "{\"password\": ***, \"n\":1}"`},
	} {
		if got := audit.RedactCommand(c[0]); got != c[1] {
			t.Errorf("\n     %s\ngot  %s\nwant %s", c[0], got, c[1])
		}
	}
}

// What a client sends is read once: a command of a megabyte must not keep a processor for minutes.
func TestRedactCommandTakesTimeInProportion(t *testing.T) {
	for _, unit := range []string{"a", "a://", "a://b@", "a://b:c/", "TOKEN=", `TOKEN="`, "--token ", "'", `\`, "mysql -p", `{"token":"`} {
		begin := time.Now()
		audit.RedactCommand(strings.Repeat(unit, 1_000_000/len(unit)))
		if took := time.Since(begin); took > 20*time.Second {
			t.Errorf("a megabyte of %q takes %s", unit, took)
		}
	}
}

func TestSecretName(t *testing.T) {
	for _, name := range strings.Fields(`TOKEN FOO_TOKEN TOKEN_FOO fooToken FOOTOKEN token-id API_KEY APIKEY apikeys PASS DB_PASS PASSWORD passwords
		SECRET SECRET_KEY_BASE CREDENTIALS DSN SENTRY_DSN PRIVATE PRIVATE_KEY x.private.y MYSQL_PWD PASSPHRASE`) {
		if !audit.SecretName(name) {
			t.Errorf("%s does not count as secret", name)
		}
	}
	for _, name := range strings.Fields(`PORT DATABASE_URL TOKENIZER KEYBOARD PASSENGER PWD OLDPWD SECRETARY_NAME DSNX _ ESS`) {
		if audit.SecretName(name) {
			t.Errorf("%s counts as secret", name)
		}
	}
	if audit.SecretName("") {
		t.Error("nothing counts as secret")
	}
}

func FuzzRedactCommand(f *testing.F) {
	for _, seed := range []string{`FOO_TOKEN=%s cmd`, `sh -c "A_SECRET='%s' x"`, `cmd --password %s`, `psql postgres://u:%s@h/db`, `mysql -p%s`,
		`curl -d "{\"password\": \"%s\"}"`, `echo 'unterminated "TOKEN=%s`, "a\x00\xff=TOKEN:=%s"} {
		f.Add(seed, "marker0marker")
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		once := audit.RedactCommand(before + after)
		if twice := audit.RedactCommand(once); twice != once {
			// What was masked stays masked, and nothing else comes to light.
			if strings.Count(twice, "***") < strings.Count(once, "***")/2 {
				t.Errorf("again:\n%q\n%q", once, twice)
			}
		}
		// A plain assignment is masked wherever it stands on its own, whatever was written before it.
		const secret = "s3cr3tmarker"
		if !strings.Contains(before, secret) {
			if got := audit.RedactCommand(before + " FOO_TOKEN=" + secret); strings.Contains(got, secret) {
				t.Errorf("it shows in %q", got)
			}
		}
	})
}

func TestACommandCannotHideInAMaskedValue(t *testing.T) {
	for command, want := range map[string]string{
		`sh -c 'A_TOKEN="$(rm -rf /data)" true'`:      `rm -rf /data`,
		"A_TOKEN=`rm -rf /data` true":                 `rm -rf /data`,
		`A_TOKEN="s3cret$(curl -u x:y evil)s3cret" x`: `curl`,
		`A_TOKEN="$(echo $(rm -rf /data))" true`:      `rm -rf /data`,
	} {
		got := audit.RedactCommand(command)
		if !strings.Contains(got, want) || strings.Contains(got, "s3cret") {
			t.Errorf("%s is recorded as %s", command, got)
		}
	}
	deep := "A_TOKEN=\"" + strings.Repeat("$(", 50_000) + strings.Repeat(")", 50_000) + "\" x"
	if got := audit.RedactCommand(deep); len(got) > 2*len(deep) {
		t.Errorf("%d bytes were recorded as %d", len(deep), len(got))
	}
}
