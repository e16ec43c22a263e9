package directory

import (
	"context"
	"slices"
	"strings"

	"github.com/lib/pq"
)

// FirstUsers makes the list that AddFirstUsers takes out of the addresses of each role. Who is listed for several
// roles gets all of them.
func FirstUsers(byRole map[string][]string) []NewUser {
	var people []NewUser
	for role, addresses := range byRole {
		for _, address := range addresses {
			i := slices.IndexFunc(people, func(p NewUser) bool { return p.Email == address })
			if i < 0 {
				i = len(people)
				people = append(people, NewUser{Email: address})
			}
			people[i].Bindings = append(people[i].Bindings, Binding{Role: role, App: allApps})
		}
	}
	slices.SortFunc(people, func(a, b NewUser) int { return strings.Compare(a.Email, b.Email) })
	return people
}

const wasDone = `
select count(*) from rgw.bootstrap b where b.what = 'users'`

const everThere = `
select count(*) from rgw.users u where u.email = $1`

const noteDone = `
insert into rgw.bootstrap (what, done_at, addresses) values ('users', $1, $2)`

// AddFirstUsers adds the people that the configuration names, once in the life of the gateway: the first time that it
// is called with anybody at all. Nobody who is there is changed, and nobody who was removed comes back. It returns
// whom it added.
func (w *Writer) AddFirstUsers(ctx context.Context, by Actor, people []NewUser) ([]User, error) {
	if len(people) == 0 {
		return nil, nil
	}
	for i := range people {
		var err error
		if people[i].Email, err = checkEmail(people[i].Email); err != nil {
			return nil, err
		}
		if people[i].Bindings, err = checkBindings(people[i].Bindings); err != nil {
			return nil, err
		}
	}
	var added []User
	err := w.change(ctx, by, attempt{action: "user.bootstrap"}, func(tx *writeTx) error {
		added = added[:0]
		var done int
		if _, err := tx.get(ctx, &done, wasDone); err != nil {
			return wrap("looking whether the first users were added", err)
		}
		if done > 0 {
			return nil
		}
		addresses := []string{} // not null
		for _, person := range people {
			var there int
			if _, err := tx.get(ctx, &there, everThere, person.Email); err != nil {
				return wrap("looking for a user", err)
			}
			if there > 0 {
				continue
			}
			if err := tx.mayGiveToUser(ctx, person.Bindings); err != nil {
				return err
			}
			user := User{ID: newID(), Email: person.Email, Name: person.Name, CreatedAt: tx.now, CreatedBy: by.Label, Bindings: person.Bindings}
			if err := tx.addUser(ctx, user); err != nil {
				return err
			}
			added = append(added, user)
			addresses = append(addresses, user.Email)
		}
		if _, err := tx.exec(ctx, noteDone, tx.now, pq.Array(addresses)); err != nil {
			return wrap("noting that the first users were added", err)
		}
		tx.record(change{action: "user.bootstrap", params: []string{"added", strings.Join(addresses, " ")}})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return added, nil
}
