// Instances: the machines of the rack.

package racktest

import (
	"encoding/base64"
	"maps"
	"slices"

	"rackgateway/pkg/racktest/wire"
)

type instance struct {
	wire.Instance
	shell *process // what a shell on the machine finds
}

// anyInstance names the machine that a new process runs on. The caller holds r.mu.
func (r *Rack) anyInstance() string {
	ids := slices.Sorted(maps.Keys(r.instances))
	if len(ids) == 0 {
		return ""
	}
	return ids[r.random.IntN(len(ids))]
}

func (r *Rack) instanceList(c *call) error {
	out := []wire.Instance{}
	r.mu.Lock()
	for _, id := range slices.Sorted(maps.Keys(r.instances)) {
		in := r.instances[id].Instance
		for _, a := range r.apps {
			for _, p := range a.processes {
				if p.Instance == id {
					in.Processes++
				}
			}
		}
		out = append(out, in)
	}
	r.mu.Unlock()
	return c.json(out)
}

// privateKeyBlock is what a rolled key looks like; it opens nothing.
const privateKeyBlock = "-----BEGIN RSA PRIVATE KEY-----\nMIIBOgIBAAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf9Cnzj4p4WGeKLs1Pt8Qu\nKUpRKfFLfRYC9AIKjbJTWit+CqvjWYzvQwECAwEAAQJAIJLixBy2qpFoS4DSmoEm\n-----END RSA PRIVATE KEY-----\n"

func (r *Rack) instanceKeyroll(c *call) error {
	r.mu.Lock()
	name := r.opts.Name + "-keypair-" + r.letters(6, hexLetters)
	r.mu.Unlock()
	key := privateKeyBlock
	return c.json(wire.KeyPair{Name: &name, PrivateKey: &key})
}

// instanceShell wants an SSH key, in base64, as racks of version 3 do.
func (r *Rack) instanceShell(c *call) error {
	if err := c.needWrite("instance shell"); err != nil {
		return err
	}
	o := c.options()
	command, _ := o.header("Command")
	key, _ := o.header("Private-Key")
	o.number(o.header("Height"))
	o.number(o.header("Width"))
	if o.err != nil {
		return o.err
	}
	r.mu.Lock()
	in := r.instances[c.variable("id")]
	r.mu.Unlock()
	if in == nil {
		return notFound("instance not found")
	}
	if key == "" {
		return badRequest("private key is not provided")
	}
	if _, err := base64.StdEncoding.DecodeString(key); err != nil {
		return err
	}
	tty := command == ""
	if tty {
		command = "sh"
	}
	return c.ws.exit(r.session(c, in.shell, "sh -c "+quote(command), tty, true))
}

// quote makes one shell word of s.
func quote(s string) string {
	out := "'"
	for _, c := range s {
		if c == '\'' {
			out += `'"'"'`
			continue
		}
		out += string(c)
	}
	return out + "'"
}

func (r *Rack) instanceTerminate(c *call) error {
	id := c.variable("id")
	r.mu.Lock()
	in := r.instances[id]
	delete(r.instances, id)
	if in != nil {
		in.shell.stop()
	}
	r.mu.Unlock()
	if in == nil {
		return notFound("instance not found: %s", id)
	}
	return c.ok()
}
