// Lines to paste: for command lines and pipelines. What goes into them is quoted for where it goes.

/** quote makes one word of a text, for a POSIX shell. */
export function quote(text: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

export interface Target {
  host: string; // where the gateway's proxy is, such as gateway.example.com
  rack: string; // ORGANIZATION/ALIAS
  app: string;
}

export const loginLine = (host: string, secret: string): string => `convox login ${quote(host)} -t ${secret}`;

export const rackURL = (host: string, secret: string): string => `https://convox:${secret}@${host}`;

export const rackURLLine = (host: string, secret: string): string => `export RACK_URL=${quote(rackURL(host, secret))}`;

export interface Snippet {
  id: string;
  title: string;
  where: string;
  text: string;
}

/** snippets are how each kind of pipeline is given a token: the secret goes where that service keeps secrets. */
export function snippets(t: Target): Snippet[] {
  const app = quote(t.app);
  return [
    {
      id: "github",
      title: "GitHub Actions",
      where: "Save the address as the secret RACK_URL under Settings → Secrets and variables → Actions.",
      text: `# .github/workflows/deploy.yml
name: deploy
on:
  push:
    branches: [main]
jobs:
  deploy:
    runs-on: ubuntu-latest
    env:
      RACK_URL: \${{ secrets.RACK_URL }}
    steps:
      - uses: actions/checkout@v4
      - run: curl -fsSL https://github.com/convox/convox/releases/latest/download/convox-linux -o convox && chmod +x convox
      - run: ./convox deploy -a ${app}`,
    },
    {
      id: "circleci",
      title: "CircleCI",
      where: "Add the variable RACK_URL to the project, or to a context that only this job uses.",
      text: `# .circleci/config.yml
version: 2.1
jobs:
  deploy:
    docker:
      - image: cimg/base:current
    steps:
      - checkout
      - run: curl -fsSL https://github.com/convox/convox/releases/latest/download/convox-linux -o convox && chmod +x convox
      - run: ./convox deploy -a ${app}
workflows:
  deploy:
    jobs:
      - deploy:
          filters: { branches: { only: main } }`,
    },
    {
      id: "gitlab",
      title: "GitLab",
      where: "Add the variable RACK_URL under Settings → CI/CD → Variables, masked and protected.",
      text: `# .gitlab-ci.yml
deploy:
  image: debian:stable-slim
  rules:
    - if: $CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH
  before_script:
    - apt-get update && apt-get install -y ca-certificates curl
    - curl -fsSL https://github.com/convox/convox/releases/latest/download/convox-linux -o /usr/local/bin/convox
    - chmod +x /usr/local/bin/convox
  script:
    - convox deploy -a ${app}`,
    },
    {
      id: "shell",
      title: "Shell",
      where: "For any other pipeline. The variable is all that the CLI needs.",
      text: `# The address is in the variable RACK_URL
convox apps
convox deploy -a ${app}
convox run web -a ${app} -- bin/migrate`,
    },
  ];
}
