//! A new consumer subscribes without a change to any publisher.

use crate::{buy, sale, shared};
use local::query::Query;
use tests::cloud::eventually;

/// All a new consumer needs besides its function: a queue, and a rule on the bus.
const TEMPLATE: &str = r"
Parameters:
  Bus: { Type: String }
  Name: { Type: String }
Resources:
  Queue:
    Type: AWS::SQS::Queue
    Properties: { QueueName: !Ref Name }
  Rule:
    Type: AWS::Events::Rule
    Properties:
      EventBusName: !Ref Bus
      EventPattern: { detail-type: [payment.completed] }
      Targets: [{ Id: queue, Arn: !GetAtt Queue.Arn }]
  Policy:
    Type: AWS::SQS::QueuePolicy
    Properties:
      Queues: [!Ref Queue]
      PolicyDocument:
        Version: '2012-10-17'
        Statement:
          - Effect: Allow
            Principal: { Service: events.amazonaws.com }
            Action: sqs:SendMessage
            Resource: !GetAtt Queue.Arn
            Condition: { ArnEquals: { aws:SourceArn: !GetAtt Rule.Arn } }
";

#[test]
fn a_new_consumer_is_a_template_and_no_publisher_changes() {
    shared(async |cloud| {
        let info = cloud.stack.info();
        let cloudformation = Query::new(&info.sdk_config());
        let bus = format!("{}-bus", info.stack);
        cloudformation.create("fan-club", TEMPLATE, &[("Bus", &bus), ("Name", "fan-club")]).await.unwrap();
        let sqs = aws_sdk_sqs::Client::new(&info.sdk_config());
        let url = eventually("the queue is there", async || {
            let found = sqs.get_queue_url().queue_name("fan-club").send().await.ok()?;
            found.queue_url().map(str::to_owned)
        })
        .await;
        eventually("the stack is there", async || {
            (cloudformation.stack("fan-club").await.unwrap()["StackStatus"] == "CREATE_COMPLETE").then_some(())
        })
        .await;
        let bought = buy(cloud, &sale(cloud).await, "A-1-1").await;
        eventually("the fan club hears of the sale", async || {
            let got = sqs.receive_message().queue_url(&url).max_number_of_messages(10).send().await.unwrap();
            let heard = got.messages().iter().any(|m| m.body().is_some_and(|body| body.contains(&bought.completed())));
            heard.then_some(())
        })
        .await;
    });
}
